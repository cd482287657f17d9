//! Finding the processes again that an earlier controller started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use segue_core::names::{AgentName, ReleaseId};
use segue_core::release::Release;

use super::member::Note;
use super::stack::{PortNote, Role, remove};
use super::{Handle, ProcessPlatform, Record};

impl ProcessPlatform {
    /// Finds the processes again that an earlier controller started, before anything is
    /// reconciled. One whose release `known` does not know is left alone: it may hold calls.
    ///
    /// # Errors
    ///
    /// When it cannot be told whether a process still runs: a second one might be started.
    pub fn adopt(
        &self,
        known: &dyn Fn(&AgentName, ReleaseId) -> Option<Release>,
    ) -> io::Result<()> {
        let directory = self.state.workers();
        // The ports first: a worker that is started again must not get one of them.
        let ports = files(&directory, "ports")?;
        let mut unknown = Vec::new();
        for path in ports {
            let Some(note) = read_ports(&path) else {
                continue;
            };
            match known(&note.agent, note.release) {
                Some(release) => {
                    self.stack(&mut self.lock(), &note.agent, &release)?;
                }
                None => unknown.push((path, note)),
            }
        }
        for path in files(&directory, "json")? {
            self.adopt_one(&path, known)?;
        }
        for (path, note) in unknown {
            let inner = self.lock();
            let of = |(agent, release, _): &(AgentName, ReleaseId, Handle)| {
                *agent == note.agent && *release == note.release
            };
            if inner.strays.iter().any(of) {
                for number in note.ports.values() {
                    // Until this controller ends.
                    std::mem::forget(self.ports.adopt(*number, note.release));
                }
            } else {
                remove(&path);
            }
        }
        Ok(())
    }

    fn adopt_one(
        &self,
        path: &Path,
        known: &dyn Fn(&AgentName, ReleaseId) -> Option<Release>,
    ) -> io::Result<()> {
        let dead = Record::read(path).ok();
        let dead = dead.and_then(|record| Note::of(&record));
        let process = match Handle::adopt(path) {
            Ok(Some(process)) => process,
            Ok(None) => {
                if let Some(note) = dead {
                    self.remember(note);
                }
                return fs::remove_file(path);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(path = %path.display(), %error, "the record of a process is damaged; the process, if there is one, is left alone");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(note) = Note::of(process.record()) else {
            let (pid, path) = (process.pid(), path.display());
            tracing::warn!(pid, %path, "a process runs whose record says nothing of a release; it is left alone");
            return Ok(());
        };
        let mut inner = self.lock();
        let is_of = |release: &Release| match note.role() {
            Role::Worker(_) => true,
            Role::Component(name) => release.content.components.contains_key(&name),
        };
        let Some(release) = known(note.agent(), note.release()).filter(is_of) else {
            let (pid, path) = (process.pid(), path.display());
            tracing::warn!(pid, %path, "a process of an unknown release runs; it is left alone");
            let of = (note.agent().clone(), note.release());
            inner.strays.push((of.0, of.1, process));
            return Ok(());
        };
        tracing::info!(agent = %note.agent(), release = %release.label, pid = process.pid(), "process adopted");
        let stack = self.stack(&mut inner, note.agent(), &release)?;
        let (agent, role) = (note.agent().clone(), note.role());
        let was = (note.port(), note.restarts());
        let process = Some((process, note));
        self.add(&mut inner, stack, &release, (&agent, role), was, process);
        Ok(())
    }

    /// A worker that ended while nobody looked comes back where it was, and nobody else does. The
    /// ports of components are written down by themselves.
    fn remember(&self, note: Note) {
        if let Note::Worker(note) = note {
            self.ports.keep_apart(note.port, note.release);
            let key = (note.agent, note.release, Role::Worker(note.index));
            self.lock().former.insert(key, note.port);
        }
    }
}

fn read_ports(path: &Path) -> Option<PortNote> {
    match PortNote::read(path) {
        Ok(note) => note,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the ports of a release cannot be read");
            None
        }
    }
}

/// Files that end so, in the directories of all agents.
fn files(directory: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for agent in fs::read_dir(directory)? {
        let agent = agent?.path();
        if !agent.is_dir() {
            continue;
        }
        for entry in fs::read_dir(agent)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == ending)
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}
