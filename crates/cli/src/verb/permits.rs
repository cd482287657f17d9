//! `segue permits`: outbound calls that workers may make, and that count as live.

use segue_controller::api::wire::PermitView;

use crate::args::{Format, PermitsArgs};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, args: &PermitsArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    let now = client.status()?.at;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let view = client.permits(agent.name.as_str(), limit)?;
    output::data(format, &view, || {
        let row = |permit: &PermitView| {
            vec![
                permit.call.clone(),
                permit.release.clone(),
                permit.holder.clone(),
                output::age(now.since(permit.granted_at).0),
                if permit.overdue {
                    "overdue".to_owned()
                } else {
                    output::age(permit.expires_at.since(now).0)
                },
            ]
        };
        let rows: Vec<Vec<String>> = view.permits.iter().map(row).collect();
        output::table(&["CALL", "RELEASE", "BY", "AGE", "TIME LEFT"], &rows)
    });
    if view.next.is_some() {
        output::say("there are more; see them with --limit");
    }
    Ok(Exit::Ok)
}
