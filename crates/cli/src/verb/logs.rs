//! `segue logs`: what workers, the gateway and the controller wrote. Read from the files, so it
//! works while no controller answers.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::args::LogsArgs;
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// How often followed files are looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// How far from its end a file is read at first: 200 lines of 5 KiB.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;

pub(crate) async fn run(home: &Home, args: &LogsArgs) -> anyhow::Result<Exit> {
    let files = files(home, args)?;
    let prefixed = files.len() > 1;
    let mut followed = Vec::new();
    for (name, path) in files {
        let mut tail = Tail {
            name,
            path,
            at: 0,
            rest: String::new(),
        };
        let lines = tail.last_lines(args.lines)?;
        tail.print(&lines, prefixed);
        followed.push(tail);
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    loop {
        for tail in &mut followed {
            let lines = tail.new_lines()?;
            tail.print(&lines, prefixed);
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

fn files(home: &Home, args: &LogsArgs) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let of = args.of.as_deref();
    if let Some(name @ ("gateway" | "controller")) = of {
        return Ok(vec![(
            name.to_owned(),
            home.log().join(format!("{name}.log")),
        )]);
    }
    if of == Some("calls") {
        return Ok(vec![("calls".to_owned(), home.log().join("calls.jsonl"))]);
    }
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    let wanted = |release: &&segue_controller::api::wire::ReleaseView| match of {
        Some(name) => release.label.as_str() == name || String::from(release.id).starts_with(name),
        None => release.state == "current",
    };
    let files: Vec<(String, PathBuf)> = agent
        .releases
        .iter()
        .filter(wanted)
        .flat_map(|release| &release.workers)
        .filter(|worker| {
            args.worker
                .as_ref()
                .is_none_or(|id| worker.id.as_str() == id)
        })
        .map(|worker| (worker.id.to_string(), PathBuf::from(&worker.log)))
        .collect();
    if files.is_empty() {
        let labels: Vec<String> = agent.releases.iter().map(|r| r.label.to_string()).collect();
        let hint = format!(
            "releases: {}; or `gateway`, `controller`, `calls`",
            labels.join(", ")
        );
        return Err(Trouble::new(Exit::Usage, "no worker matches", &hint).into());
    }
    Ok(files)
}

/// A file, read up to somewhere.
struct Tail {
    name: String,
    path: PathBuf,
    at: u64,
    /// A line whose end is not written yet.
    rest: String,
}

impl Tail {
    fn last_lines(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let length = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        self.at = length.saturating_sub(TAIL_BYTES_MAX);
        let cut = self.at > 0;
        let mut lines = self.new_lines()?;
        if cut && !lines.is_empty() {
            lines.remove(0);
        }
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// Whole lines written since the last look. A file that is not there yet has none.
    fn new_lines(&mut self) -> anyhow::Result<Vec<String>> {
        let Ok(mut file) = File::open(&self.path) else {
            return Ok(Vec::new());
        };
        if file.metadata()?.len() < self.at {
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        let read = file
            .read_to_end(&mut bytes)
            .with_context(|| unreadable(&self.path))?;
        self.at += read as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.rest.rfind('\n') else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        Ok(whole.lines().map(str::to_owned).collect())
    }

    fn print(&self, lines: &[String], prefixed: bool) {
        for line in lines {
            if prefixed {
                output::line(&format!("{}  {line}", self.name));
            } else {
                output::line(line);
            }
        }
    }
}

fn unreadable(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}
