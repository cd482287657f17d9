//! `segue workers`: the workers of an agent, whoever runs them.

use segue_controller::api::wire::{Ask, ConnectionView, SteeredView, WorkerEntry, WorkersView};
use segue_core::names::GatewayId;
use segue_core::time::Timestamp;

use super::act::operator;
use crate::args::{Format, KickArgs, SteerArgs, WorkerArgs, WorkersArgs, WorkersDo};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

pub(crate) fn run(home: &Home, format: Format, args: &WorkersArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    match &args.what {
        None => list(&client, format, args)?,
        Some(WorkersDo::Inspect(args)) => inspect(&client, format, args)?,
        Some(WorkersDo::Drain(args)) => steer(&client, format, "drain", args)?,
        Some(WorkersDo::Undrain(args)) => steer(&client, format, "undrain", args)?,
        Some(WorkersDo::Kick(args)) => kick(&client, format, args)?,
    }
    Ok(Exit::Ok)
}

fn list(client: &Client, format: Format, args: &WorkersArgs) -> Result<(), Trouble> {
    let agent = client.one_agent(args.agent.as_deref())?;
    let mut view = client.workers(agent.name.as_str())?;
    if let Some(release) = &args.release {
        let is_called = |entry: &WorkerEntry| {
            let id = entry.release_id;
            entry
                .release
                .as_ref()
                .is_some_and(|label| label.as_str() == release)
                || id.is_some_and(|id| id.short() == *release || String::from(id) == *release)
        };
        view.workers.retain(is_called);
    }
    let at = client.status()?.at;
    output::data(format, &view, || {
        let rows: Vec<Vec<String>> = view.workers.iter().map(|is| row(is, at)).collect();
        let head = [
            "WORKER", "KIND", "RELEASE", "STATE", "CALLS", "LOAD", "AGE", "FROM",
        ];
        output::table(&head, &rows)
    });
    warn(&view);
    Ok(())
}

fn row(entry: &WorkerEntry, at: Timestamp) -> Vec<String> {
    let connection = entry.connection.as_ref();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let from = connection.and_then(|is| is.from).map(|ip| ip.to_string());
    let pid = entry.process.as_ref().and_then(|is| is.pid);
    vec![
        entry.worker.to_string(),
        entry.kind.word().to_owned(),
        or_none(entry.release.as_ref().map(ToString::to_string)),
        state(entry),
        entry.calls.to_string(),
        or_none(connection.map(|is| load(is.load))),
        or_none(connection.map(|is| output::age(at.since(is.since).0))),
        or_none(from.or_else(|| pid.map(|pid| format!("pid {pid}")))),
    ]
}

/// Its state, and on whose word.
fn state(entry: &WorkerEntry) -> String {
    let by = entry.connection.as_ref();
    let by = by.and_then(|is| is.drained_by.as_deref());
    let barred = entry.process.as_ref();
    let barred = barred.and_then(|is| is.barred.as_deref());
    match (by, barred) {
        (Some(by), _) => format!("{} ({by})", entry.state),
        (None, Some(why)) => format!("{}, barred ({why})", entry.state),
        (None, None) => entry.state.clone(),
    }
}

/// What its membership keeps from it.
fn barred_by(why: &str) -> String {
    format!("{why}: no new call by its membership; those that it has go on")
}

fn load(thousandths: u32) -> String {
    format!("{}.{:02}", thousandths / 1_000, thousandths % 1_000 / 10)
}

fn inspect(client: &Client, format: Format, args: &WorkerArgs) -> Result<(), Trouble> {
    let entry = find(client, args)?.1;
    let at = client.status()?.at;
    output::data(format, &entry, || page(&entry, at));
    Ok(())
}

/// All that is known, a line each.
fn page(entry: &WorkerEntry, at: Timestamp) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        ("Worker", entry.worker.to_string()),
        ("Kind", entry.kind.word().to_owned()),
    ];
    if let Some(label) = &entry.release {
        let id = entry.release_id.map(|id| format!(" ({})", id.short()));
        lines.push(("Release", format!("{label}{}", id.unwrap_or_default())));
    }
    lines.push(("State", state(entry)));
    lines.push(("Calls", entry.calls.to_string()));
    if let Some(process) = &entry.process {
        let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
        lines.push(("Pid", pid));
        lines.push(("Port", process.port.to_string()));
        lines.push(("Restarts", process.restarts.to_string()));
        lines.push(("Log", process.log.clone()));
        lines.extend(process.why.clone().map(|why| ("Why", why)));
        let barred = process.barred.as_ref();
        lines.extend(barred.map(|why| ("Barred", barred_by(why))));
        let token = process.token.as_ref();
        lines.extend(token.map(|token| ("Token", token.to_string())));
    }
    if let Some(connection) = &entry.connection {
        lines.extend(connected(connection, at));
    }
    for beat in &entry.heard {
        let drains = if beat.draining { ", draining" } else { "" };
        let said = format!(
            "{} ago: {} calls, {} overdue{drains} (process {})",
            output::age(at.since(beat.at).0),
            beat.active,
            beat.overdue,
            beat.instance
        );
        lines.push(("Said", said));
    }
    let line = |(name, is): &(&str, String)| format!("{:<11}{is}", format!("{name}:"));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn connected(connection: &ConnectionView, at: Timestamp) -> Vec<(&'static str, String)> {
    let from = connection
        .from
        .map_or("-".to_owned(), |from| from.to_string());
    let mut lines = vec![
        ("Gateway", connection.gateway.to_string()),
        (
            "Connected",
            format!(
                "{} ago, from {from}",
                output::age(at.since(connection.since).0)
            ),
        ),
        ("Library", connection.library.clone()),
        ("Load", load(connection.load)),
        (
            "Available",
            if connection.available { "yes" } else { "no" }.to_owned(),
        ),
    ];
    let jobs = connection.jobs.iter();
    lines.extend(jobs.map(|job| ("Job", job.to_string())));
    lines
}

fn kick(client: &Client, format: Format, args: &KickArgs) -> Result<(), Trouble> {
    if !args.yes {
        let (_, entry) = find(client, &args.steer.worker)?;
        let message = format!(
            "this closes the connection of {} ({} jobs, which go on); nothing was done",
            entry.worker, entry.calls
        );
        let hint = "say --yes to do it; `segue workers drain` leaves it connected";
        return Err(Trouble::new(Exit::Usage, message, hint));
    }
    steer(client, format, "kick", &args.steer)
}

fn steer(client: &Client, format: Format, verb: &str, args: &SteerArgs) -> Result<(), Trouble> {
    let (agent, entry) = find(client, &args.worker)?;
    let ask = Ask {
        actor: Some(operator()),
        reason: args.reason.clone(),
        revision: None,
    };
    let view = client.steer_worker(&agent, entry.worker.as_str(), verb, &ask)?;
    output::data(format, &view, || sentence(verb, &view));
    Ok(())
}

fn sentence(verb: &str, view: &SteeredView) -> String {
    let entry = &view.worker;
    let (worker, calls) = (&entry.worker, entry.calls);
    let jobs = match calls {
        0 => "it has none, so it is another worker with its next connection, and takes jobs"
            .to_owned(),
        1 => "the one that it has goes on".to_owned(),
        _ => format!("the {calls} that it has go on"),
    };
    let by = entry.connection.as_ref();
    match (verb, by.and_then(|is| is.drained_by.as_deref())) {
        ("kick", _) if calls == 0 => format!("{worker} is disconnected; {jobs}"),
        ("kick", _) => format!("{worker} is disconnected and gets no more jobs; {jobs}"),
        (_, None) => format!("{worker} is given jobs"),
        ("undrain", Some(by)) => {
            format!(
                "{worker} still drains, on the word of its {by}, which an operator does not lift"
            )
        }
        (_, Some(_)) => format!("{worker} gets no more jobs; {jobs}"),
    }
}

/// The worker that is meant, by its id or an unambiguous beginning; and its agent.
fn find(client: &Client, args: &WorkerArgs) -> Result<(String, WorkerEntry), Trouble> {
    let agent = client.one_agent(args.agent.as_deref())?.name.to_string();
    let view = client.workers(&agent)?;
    let found = choose(&view.workers, &args.worker, &view.unknown).inspect_err(|_| warn(&view))?;
    Ok((agent, found.clone()))
}

fn choose<'a>(
    workers: &'a [WorkerEntry],
    wanted: &str,
    unknown: &[GatewayId],
) -> Result<&'a WorkerEntry, Trouble> {
    if let Some(exact) = workers.iter().find(|is| is.worker.as_str() == wanted) {
        return Ok(exact);
    }
    let begins = |is: &&WorkerEntry| is.worker.as_str().starts_with(wanted) && !wanted.is_empty();
    let found: Vec<&WorkerEntry> = workers.iter().filter(begins).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] if !unknown.is_empty() => {
            let names: Vec<&str> = unknown.iter().map(GatewayId::as_str).collect();
            let message = format!("worker {wanted} is not known here");
            let hint = format!(
                "it may be connected to {}, which did not answer: try again",
                names.join(", ")
            );
            Err(Trouble::new(Exit::Failed, message, &hint))
        }
        [] => {
            let message = format!("there is no worker {wanted}");
            let hint = "see which there are with `segue workers`; a LiveKit worker has another id \
                        with each connection";
            Err(Trouble::new(Exit::Usage, message, hint))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|is| is.worker.as_str()).collect();
            let message = format!("{wanted} is the beginning of several workers");
            let hint = format!("say more of the id: {}", names.join(", "));
            Err(Trouble::new(Exit::Usage, message, &hint))
        }
    }
}

fn warn(view: &WorkersView) {
    for gateway in &view.unknown {
        output::say(&format!(
            "warning: {gateway} did not answer; workers that are connected to it are missing here"
        ));
    }
}

#[cfg(test)]
mod tests {
    use segue_controller::api::wire::WorkerKind;

    use super::*;

    fn workers(ids: &[&str]) -> Vec<WorkerEntry> {
        let entry = |id: &&str| WorkerEntry {
            worker: id.parse().unwrap(),
            kind: WorkerKind::Livekit,
            release: None,
            release_id: None,
            state: "ready".to_owned(),
            calls: 0,
            process: None,
            connection: None,
            heard: Vec::new(),
        };
        ids.iter().map(entry).collect()
    }

    #[test]
    fn a_worker_is_meant_by_the_beginning_of_its_id() {
        let all = workers(&["AW_1", "AW_12", "AW_3"]);
        let id = |wanted: &str| choose(&all, wanted, &[]).map(|is| is.worker.to_string());
        assert_eq!(id("AW_3").unwrap(), "AW_3");
        assert_eq!(id("AW_12").unwrap(), "AW_12");
        assert_eq!(id("AW_1").unwrap(), "AW_1", "the whole id is meant first");
        let several = id("AW").unwrap_err();
        assert!(several.hint.unwrap().contains("AW_1, AW_12, AW_3"));
        for nothing in ["AX", ""] {
            assert!(id(nothing).unwrap_err().message.contains("no worker"));
        }
        // It is no mistake of whoever asks while a dispatcher is away.
        let away = ["dispatch".parse().unwrap()];
        let trouble = choose(&all, "AX", &away).unwrap_err();
        assert!(trouble.exit == Exit::Failed && trouble.hint.unwrap().contains("dispatch"));
    }

    #[test]
    fn an_idle_worker_is_not_promised_to_stay_away() {
        let said = |verb, calls| {
            let mut worker = workers(&["AW_1"]).remove(0);
            worker.calls = calls;
            sentence(verb, &SteeredView { worker })
        };
        assert!(said("kick", 0).contains("takes jobs"));
        assert!(!said("kick", 0).contains("no more jobs"));
        assert!(said("kick", 2).contains("no more jobs; the 2 that it has go on"));
    }

    #[test]
    fn load_is_a_share() {
        assert_eq!(
            (load(0), load(75), load(1_000)),
            ("0.00".into(), "0.07".into(), "1.00".into())
        );
    }
}
