//! One run of a hook, from its start or from where it is found, to its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use segue_core::names::AgentName;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, oneshot};
use tokio::time::sleep;

use super::{Attempt, Outcome, Place, word};
use crate::clock;
use crate::copies::Copies;
use crate::platform::process::{Handle, Spawn};
use crate::platform::words::{Words, components_in};

/// Time to end by itself once it is told to: a migration takes its transaction back.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Lines of its output that are told when it has ended, and bytes of them: they are journaled.
const TOLD_LINES_MAX: usize = 20;
const TOLD_BYTES_MAX: u64 = 4_096;

/// Runs the hook and writes its exit status down: whoever adopts it is not its parent, and would
/// never learn it.
const WRAPPER: &str = r#"status=$1; shift
"$@"
code=$?
printf %s "$code" > "$status.tmp" && mv "$status.tmp" "$status"
exit "$code""#;

/// What its record says beside the process.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    agent: AgentName,
    name: String,
    started: Timestamp,
}

/// Runs it to its end. `None`: it is not wanted any more, and has ended.
pub(super) async fn run(
    agent: &AgentName,
    attempt: &Attempt,
    place: &Place,
    copies: &Copies,
    turn: &Turn<()>,
    cancelled: &mut oneshot::Receiver<()>,
) -> Option<Outcome> {
    let _turn = tokio::select! {
        turn = turn.lock() => turn,
        () = told(cancelled) => return None,
    };
    let hook = word(attempt.key.kind);
    let begun = match begin(agent, attempt, place, copies).await {
        Ok(begun) => begun,
        Err(error) => {
            tracing::error!(%agent, hook, %error, "a hook could not be started");
            let why = format!("{hook} could not be started: {error}");
            return Some(Outcome {
                failed: Some(why),
                report: json!({ "hook": hook }),
            });
        }
    };
    let (process, started) = match begun {
        Begun::Ended => return Some(outcome(attempt, place, None)),
        Begun::Runs(process, started) => (process, started),
    };
    let limit = Duration::from_millis(attempt.hook.timeout.0);
    let gone = Duration::from_millis(clock::now().since(started).0);
    tokio::select! {
        _ = process.exited() => {}
        () = sleep(limit.saturating_sub(gone)) => {
            tracing::warn!(%agent, hook, "a hook takes too long; it is ended");
            process.stop(STOP_GRACE).await;
            let why = format!("{hook} did not end within {}", attempt.hook.timeout);
            return Some(outcome(attempt, place, Some(why)));
        }
        () = told(cancelled) => {
            tracing::warn!(%agent, hook, "a hook is not wanted any more; it is ended");
            process.stop(STOP_GRACE).await;
            place.remove();
            return None;
        }
    }
    Some(outcome(attempt, place, None))
}

/// Waits until it is told to end. That nobody is left to tell means nothing: a controller that
/// ends leaves its hooks alone.
async fn told(cancelled: &mut oneshot::Receiver<()>) {
    if cancelled.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ends one that is found and not wanted.
pub(super) async fn end(place: &Place) {
    match Handle::adopt(&place.record) {
        Ok(Some(process)) => {
            let pid = process.pid();
            tracing::warn!(
                pid,
                "a hook of an earlier controller is not wanted any more; it is ended"
            );
            process.stop(STOP_GRACE).await;
        }
        Ok(None) => {}
        Err(error) => {
            let path = place.record.display();
            tracing::warn!(%path, %error, "whether a hook still runs cannot be told");
        }
    }
    place.remove();
}

enum Begun {
    /// It ended before.
    Ended,
    Runs(Box<Handle>, Timestamp),
}

async fn begin(
    agent: &AgentName,
    attempt: &Attempt,
    place: &Place,
    copies: &Copies,
) -> io::Result<Begun> {
    if let Some(process) = Handle::adopt(&place.record)? {
        let note = serde_json::from_value(process.record().note.clone());
        let started = note.map_or_else(|_| clock::now(), |note: Note| note.started);
        tracing::info!(%agent, pid = process.pid(), "a hook still runs; it is waited for");
        return Ok(Begun::Runs(Box::new(process), started));
    }
    if place.status.exists() {
        return Ok(Begun::Ended);
    }
    let started = clock::now();
    let spawn = spawn(agent, attempt, place, copies, started).await?;
    tracing::info!(%agent, hook = word(attempt.key.kind), log = %place.log.display(), "a hook runs");
    Ok(Begun::Runs(Box::new(spawn.start()?), started))
}

async fn spawn(
    agent: &AgentName,
    attempt: &Attempt,
    place: &Place,
    copies: &Copies,
    started: Timestamp,
) -> io::Result<Spawn> {
    let (release, content) = (&attempt.release, attempt.release.content.clone());
    let copies = copies.clone();
    let parts = tokio::task::spawn_blocking(move || copies.parts(&content)).await;
    let parts = parts.map_err(io::Error::other)?;
    let parts = parts.map_err(io::Error::other)?;
    let mut words = Words::default();
    words.set("release", release.label.as_str());
    words.set("agent", agent.as_str());
    let mut env = BTreeMap::new();
    for (part, value) in parts {
        words.set(part, value.clone());
        env.insert(format!("SEGUE_{}", part.to_ascii_uppercase()), value);
    }
    for (name, value) in &release.content.env {
        // What only a worker has is not told to a hook.
        let of_worker = value.contains("{port}")
            || value.contains("{worker}")
            || components_in(value).next().is_some();
        if !of_worker {
            env.insert(name.clone(), words.fill(value));
        }
    }
    let from = attempt.from.as_ref().map_or("", |label| label.as_str());
    for (name, value) in [
        ("SEGUE_AGENT", agent.as_str()),
        ("SEGUE_RELEASE", release.label.as_str()),
        ("SEGUE_FROM_RELEASE", from),
        ("SEGUE_HOOK", word(attempt.key.kind)),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    let status = place.status.to_string_lossy().into_owned();
    let mut args: Vec<String> = ["-c", WRAPPER, "segue-hook", &status]
        .map(str::to_owned)
        .into();
    args.extend(attempt.hook.command.iter().map(|text| words.fill(text)));
    let note = Note {
        agent: agent.clone(),
        name: attempt.key.name(),
        started,
    };
    Ok(Spawn {
        program: "/bin/sh".to_owned(),
        args,
        env,
        dir: Some(PathBuf::from(&release.content.directory)),
        log: place.log.clone(),
        record_path: place.record.clone(),
        note: serde_json::to_value(note).expect("a note is plain data"),
    })
}

/// What came of it, by the status it left.
fn outcome(attempt: &Attempt, place: &Place, late: Option<String>) -> Outcome {
    let hook = word(attempt.key.kind);
    let said = last_lines(&place.log).unwrap_or_default();
    let status = fs::read_to_string(&place.status).ok();
    let status: Option<i32> = status.and_then(|text| text.trim().parse().ok());
    let failed = match (late, status) {
        (Some(late), _) => Some(late),
        (None, Some(0)) => None,
        (None, Some(code)) => Some(format!("{hook} ended with status {code}")),
        (None, None) => Some(format!("{hook} was ended before it could say how it went")),
    };
    let failed = failed.map(|why| match said.last() {
        Some(last) => format!("{why}: {last}"),
        None => why,
    });
    let report: Value = json!({
        "hook": hook,
        "status": status,
        "log": place.log.to_string_lossy(),
        "output": said,
    });
    Outcome { failed, report }
}

/// The end of what it said.
fn last_lines(log: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TOLD_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TOLD_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.replace(char::is_control, " "))
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first = lines.len().saturating_sub(TOLD_LINES_MAX);
    Ok(lines[first..].to_vec())
}
