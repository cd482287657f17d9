//! `segue logs`: what workers, the gateway and the controller wrote. Read from the files, so it
//! works while no controller answers.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use segue_controller::api::wire::ReleaseView;

use crate::args::LogsArgs;
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// How often followed files are looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// How far from its end a file is read at first: 200 lines of 5 KiB.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;

/// Longest part of a label in the name of a folder.
const LABEL_BYTES_MAX: usize = 48;

pub(crate) async fn run(home: &Home, args: &LogsArgs) -> anyhow::Result<Exit> {
    let files = files(home, args)?;
    let prefixed = files.len() > 1;
    let mut followed = Vec::new();
    for (name, path) in files {
        let mut tail = Tail::new(name, path);
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
    if of == Some("hooks") {
        let files = hooks(home, args.agent.as_deref());
        let hint = "a hook runs before a deploy or after a retirement, if segue.toml has one";
        if files.is_empty() {
            return Err(Trouble::new(Exit::Usage, "no hook has run", hint).into());
        }
        return Ok(files);
    }
    let asked = Client::find(home).and_then(|client| client.one_agent(args.agent.as_deref()));
    let agent = match asked {
        Ok(agent) => agent,
        // The files are there whether somebody answers or not.
        Err(error) if error.exit == Exit::Unreachable => {
            let files = of.map(|name| written(home, args.agent.as_deref(), name, args));
            return files
                .filter(|files| !files.is_empty())
                .ok_or_else(|| error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let wanted = |release: &&ReleaseView| match of {
        Some(name) => release.label.as_str() == name || String::from(release.id).starts_with(name),
        None => release.state == "current",
    };
    let mut files: Vec<(String, PathBuf)> = agent
        .releases
        .iter()
        .filter(wanted)
        .flat_map(logs)
        .filter(|(name, _)| is_wanted(args, name))
        .collect();
    if files.is_empty()
        && let Some(name) = of
    {
        // Its workers are gone; what they wrote is not.
        files = written(home, Some(agent.name.as_str()), name, args);
    }
    if files.is_empty() {
        let labels: Vec<String> = agent.releases.iter().map(|r| r.label.to_string()).collect();
        let hint = format!(
            "releases: {}; or `gateway`, `controller`, `calls`, `hooks`",
            labels.join(", ")
        );
        return Err(Trouble::new(Exit::Usage, "no worker or component matches", &hint).into());
    }
    Ok(files)
}

/// Log files of everything that a release runs.
fn logs(release: &ReleaseView) -> Vec<(String, PathBuf)> {
    let components = release
        .components
        .iter()
        .map(|is| (is.name.to_string(), PathBuf::from(&is.log)));
    let workers = release
        .workers
        .iter()
        .map(|is| (is.id.to_string(), PathBuf::from(&is.log)));
    components.chain(workers).collect()
}

/// Whether it is the worker or the component that was asked for.
fn is_wanted(args: &LogsArgs, name: &str) -> bool {
    let asked = args.worker.as_ref().or(args.component.as_ref());
    asked.is_none_or(|asked| name == asked)
}

/// What hooks wrote, the newest run last.
fn hooks(home: &Home, agent: Option<&str>) -> Vec<(String, PathBuf)> {
    let mut runs: Vec<(String, PathBuf)> = entries(&home.log().join("hooks"))
        .filter(|(name, _)| agent.is_none_or(|agent| name == agent))
        .flat_map(|(_, agent)| entries(&agent))
        .filter_map(|(name, path)| Some((name.strip_suffix(".log")?.to_owned(), path)))
        .collect();
    runs.sort_by_key(|(_, path)| std::fs::metadata(path).and_then(|is| is.modified()).ok());
    runs
}

/// Log files of the workers of a release, found by their folders, which are called
/// `log/workers/AGENT/LABEL-DIGEST`.
fn written(
    home: &Home,
    agent: Option<&str>,
    release: &str,
    args: &LogsArgs,
) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = entries(&home.log().join("workers"))
        .filter(|(name, _)| agent.is_none_or(|agent| name == agent))
        .flat_map(|(_, agent)| entries(&agent))
        .filter(|(name, _)| is_called(name, release))
        .flat_map(|(_, release)| entries(&release))
        .filter_map(|(name, path)| Some((name.strip_suffix(".log")?.to_owned(), path)))
        .filter(|(worker, _)| is_wanted(args, worker))
        .collect();
    found.sort();
    found
}

/// Whether a folder is that of a release, by its label or the beginning of its digest. A long
/// label is cut in the name of its folder.
fn is_called(folder: &str, release: &str) -> bool {
    folder.rsplit_once('-').is_some_and(|(label, digest)| {
        let is_cut = label.len() >= LABEL_BYTES_MAX && release.starts_with(label);
        label == release || is_cut || release.starts_with(digest) || digest.starts_with(release)
    })
}

fn entries(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| {
        (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        )
    })
}

/// A file, read up to somewhere.
struct Tail {
    name: String,
    path: PathBuf,
    /// What was found there. It may have been put aside since, and somebody still writes to it.
    file: Option<File>,
    /// A line whose end is not written yet.
    rest: String,
}

impl Tail {
    fn new(name: String, path: PathBuf) -> Self {
        Self {
            name,
            path,
            file: None,
            rest: String::new(),
        }
    }

    fn last_lines(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut cut = false;
        if let Ok(mut file) = File::open(&self.path) {
            let begin = file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX);
            cut = begin > 0;
            file.seek(SeekFrom::Start(begin))?;
            self.file = Some(file);
        }
        let mut lines = self.new_lines()?;
        if cut && !lines.is_empty() {
            lines.remove(0);
        }
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// Whole lines written since the last look. A file that is not there yet has none; of one that
    /// was put aside the last ones come first, then those of the one in its place.
    fn new_lines(&mut self) -> anyhow::Result<Vec<String>> {
        // Looked for first, so that what is written meanwhile to the old one is still read.
        let there = File::open(&self.path).ok();
        let mut lines = match &mut self.file {
            Some(file) => {
                if file.metadata()?.len() < file.stream_position()? {
                    file.rewind()?;
                }
                self.whole_lines()?
            }
            None => Vec::new(),
        };
        if let Some(there) = there
            && !self.is_open(&there)?
        {
            self.file = Some(there);
            // Half a line of the old one, whose rest is not in the new one.
            let half = std::mem::take(&mut self.rest);
            lines.extend(Some(half).filter(|half| !half.is_empty()));
            lines.extend(self.whole_lines()?);
        }
        Ok(lines)
    }

    fn is_open(&self, there: &File) -> anyhow::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let (open, there) = (file.metadata()?, there.metadata()?);
        Ok((open.dev(), open.ino()) == (there.dev(), there.ino()))
    }

    fn whole_lines(&mut self) -> anyhow::Result<Vec<String>> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes)
                .with_context(|| unreadable(&self.path))?;
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_followed_file_may_be_put_aside() {
        let dir = std::env::temp_dir().join(format!("segue-logs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("calls.jsonl");
        let open = || {
            let mut options = File::options();
            options.append(true).create(true).open(&path).unwrap()
        };
        let mut tail = Tail::new("calls".to_owned(), path.clone());
        assert!(tail.last_lines(2).unwrap().is_empty(), "not there yet");
        let mut before = open();
        before.write_all(b"1\n2\n3").unwrap();
        assert_eq!(tail.new_lines().unwrap(), ["1", "2"]);
        std::fs::rename(&path, dir.join("calls.jsonl.1")).unwrap();
        before.write_all(b"\n4\n").unwrap();
        // Longer than the one before.
        open().write_all(b"5\n6\n7\n8\n9\n10\n11").unwrap();
        let seen = tail.new_lines().unwrap();
        assert_eq!(seen, ["3", "4", "5", "6", "7", "8", "9", "10"]);
        open().write_all(b"\n").unwrap();
        assert_eq!(tail.new_lines().unwrap(), ["11"]);
        let last = Tail::new("calls".to_owned(), path.clone());
        assert_eq!({ last }.last_lines(2).unwrap(), ["10", "11"]);
        // Half a line stays half a line.
        open().write_all(b"12").unwrap();
        assert!(tail.new_lines().unwrap().is_empty());
        std::fs::rename(&path, dir.join("calls.jsonl.2")).unwrap();
        open().write_all(b"13\n").unwrap();
        assert_eq!(tail.new_lines().unwrap(), ["12", "13"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
