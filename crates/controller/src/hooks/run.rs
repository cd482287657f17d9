//! One run of a hook, from its start or from where it is found, to its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use segue_core::names::AgentName;
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, oneshot};
use tokio::time::{sleep, timeout};

use super::{Attempt, Outcome, Place, word};
use crate::clock;
use crate::copies::{Copies, Gone};
use crate::platform::process::{Handle, Record, Remains, Spawn};
use crate::platform::words::{Words, components_in};

/// Time to end by itself once it is told to: a migration takes its transaction back.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How often it is looked again for one that nobody tells the end of.
const FIND_AGAIN: Duration = Duration::from_millis(500);

/// Time that a hook gets whose own is not known: the longest that may be written.
const TIMEOUT_MAX: Millis = Millis(3_600_000);

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
    /// How long it may take.
    #[serde(default)]
    timeout: Option<Millis>,
}

/// Runs it to its end. `None`: nobody wants to know.
///
/// One that is not wanted any more before it is started is not started. One that runs is left to
/// end, as nobody knows what half of it has done; what comes of it is then only logged.
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
    let found = tokio::select! {
        found = find(place) => found,
        () = told(cancelled) => {
            end(place).await;
            return None;
        }
    };
    let begun = match found {
        Some(found) => Ok(found),
        None if place.status.exists() => return Some(outcome(attempt, place, None)),
        None => start(agent, attempt, place, copies).await,
    };
    let runs = match begun {
        Ok(runs) => runs,
        Err(error) => {
            tracing::error!(%agent, hook, %error, "a hook could not be started");
            let why = format!("{hook} could not be started: {error}");
            return Some(Outcome {
                failed: Some(why),
                report: json!({ "hook": hook }),
            });
        }
    };
    let mut ended = pin!(runs.ended(attempt.hook.timeout));
    let (in_time, wanted) = tokio::select! {
        in_time = &mut ended => (in_time, true),
        () = told(cancelled) => {
            tracing::warn!(%agent, hook, "a hook is not wanted any more; it runs, and is left to end");
            (ended.await, false)
        }
    };
    let late = || format!("{hook} did not end within {}", attempt.hook.timeout);
    let outcome = outcome(attempt, place, (!in_time).then(late));
    if wanted {
        return Some(outcome);
    }
    let failed = outcome.failed.as_deref();
    tracing::info!(%agent, hook, failed, "a hook that was not wanted any more has ended");
    place.remove();
    None
}

/// Waits until it is told to end. That nobody is left to tell means nothing: a controller that
/// ends leaves its hooks alone.
async fn told(cancelled: &mut oneshot::Receiver<()>) {
    if cancelled.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for the end of one that is found and not wanted.
pub(super) async fn end(place: &Place) {
    if let Some(runs) = find(place).await {
        let pid = runs.pid;
        tracing::warn!(
            pid,
            "a hook of an earlier controller is not wanted any more; it runs, and is left to end"
        );
        let limit = runs.limit.unwrap_or(TIMEOUT_MAX);
        runs.ended(limit).await;
    }
    place.remove();
}

/// Finds one that runs. As long as that cannot be told it is held: two never run side by side.
async fn find(place: &Place) -> Option<Runs> {
    loop {
        match look(place).await {
            Ok(found) => return found,
            Err(error) => {
                let path = place.record.display();
                tracing::error!(%path, %error, "whether a hook runs cannot be told, so none is started. hint: if its record is damaged, end the hook and remove the record");
            }
        }
        sleep(FIND_AGAIN).await;
    }
}

async fn look(place: &Place) -> io::Result<Option<Runs>> {
    let (process, record) = match Handle::adopt(&place.record)? {
        Some(process) => {
            let record = process.record().clone();
            (Some(process), record)
        }
        None => match Record::read(&place.record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            record => (None, record?),
        },
    };
    let remains = Remains::of(&record);
    // The shell around it may be gone, and it itself still run.
    if process.is_none() {
        if place.status.exists() {
            return Ok(None);
        }
        let looked = remains.clone();
        let any = tokio::task::spawn_blocking(move || looked.any()).await;
        if !any.map_err(io::Error::other)?? {
            return Ok(None);
        }
    }
    let note: Option<Note> = serde_json::from_value(record.note).ok();
    let pid = record.pid;
    tracing::info!(pid, "a hook still runs; it is waited for");
    Ok(Some(Runs {
        process,
        remains,
        pid,
        status: place.status.clone(),
        started: note.as_ref().map_or_else(clock::now, |note| note.started),
        limit: note.and_then(|note| note.timeout),
    }))
}

/// One that runs.
struct Runs {
    /// `None`: its leader has ended.
    process: Option<Handle>,
    remains: Remains,
    pid: Option<u32>,
    /// Where its status is once it has ended.
    status: PathBuf,
    started: Timestamp,
    /// How long it may take, as its record says.
    limit: Option<Millis>,
}

impl Runs {
    /// Waits until it, and what it started, has ended; ends it after `limit`. Answers whether it
    /// ended in time.
    async fn ended(&self, limit: Millis) -> bool {
        let gone = clock::now().since(self.started);
        let left = Duration::from_millis(limit.0.saturating_sub(gone.0));
        if timeout(left, self.by_itself()).await.is_ok() {
            return true;
        }
        tracing::warn!(pid = self.pid, "a hook takes too long; it is ended");
        if let Some(process) = &self.process {
            process.stop(STOP_GRACE).await;
        }
        self.remains.end(STOP_GRACE).await;
        false
    }

    async fn by_itself(&self) {
        if let Some(process) = &self.process {
            process.exited().await;
        }
        // The shell around it was killed, and it itself may run on.
        while !self.status.exists() && self.remains.may_live().await {
            sleep(FIND_AGAIN).await;
        }
    }
}

async fn start(
    agent: &AgentName,
    attempt: &Attempt,
    place: &Place,
    copies: &Copies,
) -> io::Result<Runs> {
    let started = clock::now();
    let spawn = spawn(agent, attempt, place, copies, started).await?;
    tracing::info!(%agent, hook = word(attempt.key.kind), log = %place.log.display(), "a hook runs");
    let process = spawn.start()?;
    Ok(Runs {
        remains: Remains::of(process.record()),
        pid: Some(process.pid()),
        status: place.status.clone(),
        process: Some(process),
        started,
        limit: None,
    })
}

async fn spawn(
    agent: &AgentName,
    attempt: &Attempt,
    place: &Place,
    copies: &Copies,
    started: Timestamp,
) -> io::Result<Spawn> {
    let release = &attempt.release;
    let mut words = Words::default();
    words.set("release", release.label.as_str());
    words.set("agent", agent.as_str());
    let content = &release.content;
    let files = content.hooks.iter();
    let files: BTreeMap<String, String> = files
        .map(|(word, digest)| (words.fill(word), digest.clone()))
        .collect();
    let (copies, content) = (copies.clone(), content.clone());
    let looked = tokio::task::spawn_blocking(move || -> Result<_, Gone> {
        let moved = copies.stand_ins(&content.directory, &files)?;
        Ok((copies.parts(&content)?, moved))
    });
    let looked = looked.await.map_err(io::Error::other)?;
    let (parts, moved) = looked.map_err(io::Error::other)?;
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
    if !moved.is_empty() {
        let hook = word(attempt.key.kind);
        tracing::warn!(%agent, hook, "files of a hook changed since it was deployed; the copies kept at deploy are run");
    }
    for (nth, text) in attempt.hook.command.iter().enumerate() {
        let text = words.fill(text);
        args.push(match moved.get(&text) {
            Some(copy) if nth == 0 => place.link(&text, copy)?,
            Some(copy) => copy.to_string_lossy().into_owned(),
            None => text,
        });
    }
    let note = Note {
        agent: agent.clone(),
        name: attempt.key.name(),
        started,
        timeout: Some(attempt.hook.timeout),
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
