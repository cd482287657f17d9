//! `segue calls`: the calls in progress.

use crate::args::{CallsArgs, Format};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, args: &CallsArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    let at = client.status()?.at;
    let view = client.calls(agent.name.as_str(), args.limit)?;
    output::data(format, &view, || {
        let label = |id| {
            let of = agent.releases.iter().find(|release| release.id == id);
            of.map_or_else(|| id.short(), |release| release.label.to_string())
        };
        let rows: Vec<Vec<String>> = view
            .calls
            .iter()
            .map(|call| {
                vec![
                    call.call.to_string(),
                    label(call.release),
                    call.worker.to_string(),
                    call.state.clone(),
                    output::age(at.since(call.since).0),
                    call.reason.clone(),
                    call.bytes_in.to_string(),
                    call.bytes_out.to_string(),
                ]
            })
            .collect();
        let head = [
            "CALL",
            "RELEASE",
            "WORKER",
            "STATE",
            "AGE",
            "BY",
            "BYTES IN",
            "BYTES OUT",
        ];
        output::table(&head, &rows)
    });
    for gateway in &view.unknown {
        output::say(&format!(
            "warning: {gateway} did not answer; its calls are missing here"
        ));
    }
    Ok(Exit::Ok)
}
