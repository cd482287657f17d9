//! A supervised process: found or started, and started again when it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use segue_controller::platform::process::{Exit, Handle, Record, Signal, Spawn};
use segue_core::names::{GatewayId, ReleaseId};
use serde_json::{Value, json};

use super::LOOK_EVERY;
use super::binary::Binary;
use super::door::Door;
use super::draining::first_id;
use crate::home::Home;
use crate::output;
use crate::verb::process::configuration;

/// Wait before a process is started a second time in a row, and the longest. The first time there
/// is none: the calls of a gateway stand still meanwhile. A crash loop must not eat the machine.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A process that ran this long was well, and is started again at once. As long as the longest
/// wait: so one that always ends at once is not started more often than one that ends after this.
const WELL_AFTER: Duration = RESTART_AFTER.1;

/// How long a gateway may be without an address before it is taken for one that has closed its
/// listener: a starting one binds within milliseconds, or ends.
const ADDRESS_MAX: Duration = Duration::from_secs(5);

/// How far from its end a log is read for the last words of a process.
const LAST_WORDS_BYTES_MAX: u64 = 64 * 1024;

/// Lines of last words: an error, its hint, and what they may be broken into.
const LAST_WORDS_LINES_MAX: usize = 4;

/// Which process, and as whom it runs.
#[derive(Debug, Clone)]
pub(super) struct Program {
    name: &'static str,
    id: Option<GatewayId>,
    /// Where it is connected to, if that outlives it.
    door: Option<Door>,
}

impl Program {
    pub(super) fn controller() -> Self {
        Self {
            name: "controller",
            id: None,
            door: None,
        }
    }

    pub(super) fn dispatcher(door: Option<Door>) -> Self {
        Self {
            name: "dispatch",
            id: None,
            door,
        }
    }

    /// A gateway that is started is this one; one that runs already is whom its record says.
    pub(super) fn gateway(id: GatewayId) -> Self {
        Self {
            name: "gateway",
            id: Some(id),
            door: None,
        }
    }

    /// Where it says that it listens.
    fn addr(&self, home: &Home) -> PathBuf {
        let name = match self.name {
            "controller" => "api",
            name => name,
        };
        home.run().join(format!("{name}.addr"))
    }

    fn record(&self, home: &Home) -> PathBuf {
        home.run().join(format!("{}.json", self.name))
    }

    pub(super) fn start_from(
        &self,
        binary: &Binary,
        home: &Home,
        config: &Path,
    ) -> anyhow::Result<Handle> {
        let _ = fs::remove_file(self.addr(home));
        self.spawn(binary, home, config, &[], self.record(home))
    }

    /// Starts one that takes over from the gateway at `socket`, with a record beside that one's.
    pub(super) fn take_over(
        &self,
        binary: &Binary,
        home: &Home,
        config: &Path,
        socket: &Path,
        record: PathBuf,
    ) -> anyhow::Result<Handle> {
        let takeover = ["--takeover".to_owned(), socket.display().to_string()];
        self.spawn(binary, home, config, &takeover, record)
    }

    /// How long its log is: what a process that is started now writes comes behind.
    pub(super) fn log_length(&self, home: &Home) -> u64 {
        let log = fs::metadata(home.log().join(format!("{}.log", self.name)));
        log.map_or(0, |log| log.len())
    }

    fn spawn(
        &self,
        binary: &Binary,
        home: &Home,
        config: &Path,
        more: &[String],
        record_path: PathBuf,
    ) -> anyhow::Result<Handle> {
        let mut args = vec![
            self.name.to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
            "--home".to_owned(),
            home.path().display().to_string(),
        ];
        let mut note = json!({ "config": digest(config) });
        if let Some(id) = &self.id {
            args.extend(["--id".to_owned(), id.to_string()]);
            note["id"] = json!(id);
            fs::write(home.last_gateway(), id.as_str())?;
        }
        args.extend_from_slice(more);
        let door = self.door.as_ref().and_then(|door| {
            // As it is configured now: whoever is started reads the same. One that cannot be read
            // is said by whoever is started.
            let livekit = configuration(config).ok()?.livekit?;
            door.socket(livekit.listen)
        });
        if door.is_some() {
            args.push("--door".to_owned());
        }
        let spawn = Spawn {
            program: binary.program(),
            args,
            env: BTreeMap::new(),
            dir: None,
            log: home.log().join(format!("{}.log", self.name)),
            record_path,
            note,
        };
        spawn
            .start_with(&binary.to_string(), door)
            .with_context(|| format!("the {} cannot be started", self.name))
    }
}

/// Who the gateway of a record is. Records of earlier versions do not say; there was only one.
pub(super) fn id_of(note: &Value) -> GatewayId {
    serde_json::from_value(note["id"].clone()).unwrap_or_else(|_| first_id())
}

/// Tells configurations apart. It is the digest that names releases, of a file instead.
fn digest(config: &Path) -> Option<String> {
    let text = fs::read(config).ok()?;
    Some(String::from(ReleaseId::of(&text)))
}

/// What became of a process that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It ended, and was started again or will be.
    Restarted,
    /// It is a gateway that takes no new calls and ends with its last one.
    Closed,
}

/// A supervised process.
pub(super) struct Child {
    program: Program,
    handle: Handle,
    /// What it is started again from.
    binary: Binary,
    started: Instant,
    wait: Duration,
    /// It has ended, and is started again at this moment.
    due: Option<Instant>,
    /// How, until that is told.
    ended: Option<Exit>,
    /// Where in its log it began.
    log_from: u64,
    /// What was last said about its end.
    told: String,
    /// Its address was seen.
    listened: bool,
}

impl Child {
    /// The process of the record, if it runs.
    pub(super) fn find(home: &Home, mut program: Program) -> anyhow::Result<Option<Self>> {
        let Some(handle) = Handle::adopt(&program.record(home))
            .with_context(|| format!("cannot tell whether a {} still runs", program.name))?
        else {
            return Ok(None);
        };
        if program.id.is_some() {
            program.id = Some(id_of(&handle.record().note));
        }
        let binary = Binary::of(handle.pid()).unwrap_or(Binary::Ours);
        Ok(Some(Self::of(program, handle, binary)))
    }

    fn of(program: Program, handle: Handle, binary: Binary) -> Self {
        let log = fs::metadata(&handle.record().log);
        Self {
            program,
            started: Instant::now(),
            wait: Duration::ZERO,
            due: None,
            ended: None,
            log_from: log.map_or(0, |log| log.len()),
            told: String::new(),
            listened: false,
            handle,
            binary,
        }
    }

    /// Has it read its files again.
    pub(super) fn hang_up(&self) {
        if let Err(error) = self.handle.signal(Signal::HUP) {
            let name = self.program.name;
            tracing::warn!(%error, "the {name} was not told to read its files again");
        }
    }

    pub(super) fn find_or_start(
        home: &Home,
        config: &Path,
        program: Program,
    ) -> anyhow::Result<Self> {
        let name = program.name;
        if let Some(child) = Self::find(home, program.clone())? {
            output::say(&format!("found the running {name} (pid {})", child.pid()));
            let of = &child.handle.record().note["config"];
            if of.is_string() && *of != json!(digest(config)) {
                output::say(&format!(
                    "warning: the running {name} was started with an older segue.toml; `segue \
                     stop` and `segue serve` apply the new one"
                ));
            }
            return Ok(child);
        }
        let log_from = fs::metadata(home.log().join(format!("{name}.log")));
        let handle = program.start_from(&Binary::Ours, home, config)?;
        let mut child = Self::of(program, handle, Binary::Ours);
        child.log_from = log_from.map_or(0, |log| log.len());
        Ok(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.handle.pid()
    }

    /// Who it is to the controller, if it is a gateway.
    pub(super) fn id(&self) -> GatewayId {
        self.program.id.clone().unwrap_or_else(first_id)
    }

    pub(super) fn is_running(&self) -> bool {
        self.handle.is_running()
    }

    /// Waits for its end. May be dropped while it waits.
    pub(super) async fn exited(&self) -> Exit {
        self.handle.exited().await
    }

    /// Has it end by itself.
    pub(super) fn end(&self) {
        if let Some(door) = &self.program.door {
            door.close();
        }
        if let Err(error) = self.handle.signal(Signal::TERM) {
            let name = self.program.name;
            tracing::warn!(%error, "the {name} was not told to end");
        }
    }

    pub(super) async fn stop(&self, grace: Duration) -> Exit {
        self.handle.stop(grace).await
    }

    /// What it said last.
    pub(super) fn last_words(&self) -> Vec<String> {
        last_words(&self.handle.record().log, self.log_from)
    }

    pub(super) fn record(&self) -> &Record {
        self.handle.record()
    }

    /// Another process is this one now.
    pub(super) fn becomes(&mut self, handle: Handle, binary: Binary, log_from: u64) {
        let program = self.program.clone();
        *self = Self::of(program, handle, binary);
        self.log_from = log_from;
    }

    pub(super) fn binary(&self) -> &Binary {
        &self.binary
    }

    /// It is well: from here on it is started again from the very file that it runs, whatever is in
    /// the place of that later.
    pub(super) fn hold_binary(&mut self) {
        if let Some(binary) = Binary::of(self.handle.pid()) {
            self.binary = binary;
        }
    }

    pub(super) fn into_handle(self) -> Handle {
        self.handle
    }

    /// Waits for its end, then for a while, then starts it again; or until it is a gateway that
    /// lives and takes no new calls. May be dropped while it waits.
    pub(super) async fn keep(&mut self, home: &Home, config: &Path) -> Turn {
        let due = if let Some(due) = self.due {
            due
        } else {
            let addr = self.program.addr(home);
            let exit = tokio::select! {
                exit = self.handle.exited() => exit,
                () = closes(&addr, self.started, &mut self.listened), if self.program.id.is_some() => {
                    return Turn::Closed;
                }
            };
            let due = Instant::now() + self.next_wait();
            self.ended = Some(exit);
            *self.due.insert(due)
        };
        // Even a timer that is due takes a millisecond.
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        // Its last words, before others are added; they are said once it runs again.
        let last = self.ended.take().map(|exit| self.epitaph(exit));
        let log = fs::metadata(&self.handle.record().log);
        match self.program.start_from(&self.binary, home, config) {
            Ok(handle) => {
                self.handle = handle;
                self.started = Instant::now();
                self.due = None;
                self.listened = false;
                self.log_from = log.map_or(0, |log| log.len());
            }
            Err(error) => {
                output::say(&format!("{}: {error:#}", self.program.name));
                self.due = Some(Instant::now() + self.next_wait());
            }
        }
        if let Some(last) = last {
            self.tell(last);
        }
        Turn::Restarted
    }

    fn next_wait(&mut self) -> Duration {
        if self.due.is_none() && self.started.elapsed() >= WELL_AFTER {
            self.wait = Duration::ZERO;
            self.told.clear();
        }
        let wait = self.wait;
        self.wait = (wait * 2).clamp(RESTART_AFTER.0, RESTART_AFTER.1);
        wait
    }

    /// How it ended, and its last words.
    fn epitaph(&self, exit: Exit) -> String {
        let mut text = format!("{}: {exit}; it is started again", self.program.name);
        for line in last_words(&self.handle.record().log, self.log_from) {
            text.extend(["\n  ", &line]);
        }
        text
    }

    /// Says how it ended, unless it did the same the last time.
    fn tell(&mut self, text: String) {
        if text != self.told {
            output::say(&text);
            self.told = text;
        }
    }
}

/// Waits until the address of a gateway is gone: it has closed its listener, ends with its last
/// call and takes no new one. May be dropped while it waits.
async fn closes(addr: &Path, started: Instant, listened: &mut bool) {
    loop {
        if addr.exists() {
            *listened = true;
        } else if *listened || started.elapsed() >= ADDRESS_MAX {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a process said last: its error, or its last line.
pub(super) fn last_words(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            from.max(length.saturating_sub(LAST_WORDS_BYTES_MAX)),
        ))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let error = lines.iter().rposition(|line| line.starts_with("error:"));
    let first = error.unwrap_or(lines.len().saturating_sub(1));
    let words = lines[first..].iter().take(LAST_WORDS_LINES_MAX);
    words.map(|line| (*line).to_owned()).collect()
}
