//! Finding the processes again that an earlier controller started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use segue_core::names::{AgentName, ReleaseId};
use segue_core::release::Release;

use super::left::{Whose, is_apart};
use super::member::Note;
use super::stack::{PortNote, Role, remove};
use super::{Handle, ProcessPlatform, Record, Remains};

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
        let mut records = files(&directory, "json")?;
        // Those that were attended to first: of two of one name they are the later.
        records.sort_by_key(|path| is_apart(path));
        for path in records {
            self.adopt_one(&path, known)?;
        }
        for (path, note) in unknown {
            if self.left.releases(&note.agent).contains(&note.release) {
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
        let Some(agent) = agent_of(path) else {
            tracing::warn!(path = %path.display(), "no agent is called so; this record is left alone");
            return Ok(());
        };
        let process = match Handle::adopt(path) {
            Ok(process) => process,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let shown = path.display();
                tracing::error!(path = %shown, %error, "the record of a process is damaged; the process, if there is one, is left alone, and no contract runs. hint: end it, and remove the record");
                self.left.note_damaged(agent, path);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let record = match &process {
            Some(process) => process.record().clone(),
            None => Record::read(path)?,
        };
        let note = Note::of(&record);
        if process.is_none() && !Remains::of(&record).any()? {
            if let Some(note) = note {
                self.remember(note);
            }
            return fs::remove_file(path);
        }
        let is_of = |release: &Release, role: &Role| match role {
            Role::Worker(_) => true,
            Role::Component(name) => release.content.components.contains_key(name),
        };
        let release = note.as_ref().and_then(|note| {
            let release = known(note.agent(), note.release())?;
            is_of(&release, &note.role()).then_some(release)
        });
        let (Some(note), Some(release)) = (note.clone(), release) else {
            let path_shown = path.display();
            tracing::warn!(pid = record.pid, path = %path_shown, "a process runs whose release nobody knows; it is left alone, and no contract runs");
            let whose = Whose {
                agent,
                of: note.map(|note| (note.release(), note.role())),
                is_stray: true,
            };
            self.left.follow(&record, path, whose, false);
            return Ok(());
        };
        let mut inner = self.lock();
        let stack = self.stack(&mut inner, note.agent(), &release)?;
        let (agent, role) = (note.agent().clone(), note.role());
        let key = (agent.clone(), release.id, role.clone());
        let process = process.filter(|_| !inner.cells.contains_key(&key));
        let Some(process) = process else {
            drop(inner);
            tracing::warn!(%agent, release = %release.label, path = %path.display(), "what a process left behind runs on; it is left alone until its release is retired");
            let whose = Whose {
                agent,
                of: Some((release.id, role)),
                is_stray: false,
            };
            self.left.follow(&record, path, whose, false);
            self.remember(note);
            return Ok(());
        };
        tracing::info!(%agent, release = %release.label, pid = process.pid(), "process adopted");
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

/// Whose record it is, by the directory that it lies in.
fn agent_of(path: &Path) -> Option<AgentName> {
    let directory = path.parent()?.file_name()?.to_str()?;
    directory.parse().ok()
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
