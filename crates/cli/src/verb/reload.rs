//! `segue reload`: the configuration and the certificates are read again, under live calls.

use segue_controller::api::wire::ReloadView;
use segue_controller::platform::process::{Handle, Signal};
use segue_core::names::AgentName;

use crate::args::Format;
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format) -> anyhow::Result<Exit> {
    let view = Client::find(home)?.reload()?;
    output::data(format, &view, || text(&view));
    // Certificates are the gateway's; one of another machine is not ours to signal.
    if let Ok(Some(gateway)) = Handle::adopt(&home.run().join("gateway.json"))
        && let Err(error) = gateway.signal(Signal::HUP)
    {
        output::say(&format!(
            "warning: the gateway was not told to read its certificate again: {error}"
        ));
    }
    if !view.restart.is_empty() {
        output::say(&format!(
            "warning: {} differ from what runs and are read at a start only",
            view.restart.join(", ")
        ));
        output::say("hint: `segue stop` and `segue serve` apply them, once the calls have ended");
    }
    if view.dispatcher {
        let dispatcher = Handle::adopt(&home.run().join("dispatch.json"));
        let pid = dispatcher.ok().flatten().map(|it| it.pid());
        output::say("warning: the dispatcher goes on with what it read of [livekit] at its start");
        output::say(&format!(
            "hint: `kill -9 {}` (not a plain kill, which waits for its jobs): no job ends by that, and \
             `segue serve` starts it anew at once",
            pid.map_or("PID".to_owned(), |pid| pid.to_string())
        ));
    }
    Ok(Exit::Ok)
}

fn text(view: &ReloadView) -> String {
    let names = |agents: &[AgentName]| {
        let names: Vec<&str> = agents.iter().map(AgentName::as_str).collect();
        names.join(", ")
    };
    let mut lines = Vec::new();
    if view.changed.is_empty() {
        lines.push("nothing has changed".to_owned());
    } else {
        lines.push(format!(
            "new settings for {}; the next deploy follows them",
            names(&view.changed)
        ));
    }
    if !view.removed.is_empty() {
        lines.push(format!(
            "{} is not in the file any more, and is kept: it may have calls",
            names(&view.removed)
        ));
    }
    lines.join("\n")
}
