//! Processes that run and that nobody attends to: what a worker or component left behind when its
//! leader ended by itself, and strays, of releases that nobody knows.
//!
//! They are followed until the last one is gone, across restarts of the controller, and are ended
//! with their release and never before: they may hold calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::names::{AgentName, ReleaseId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Record;
use super::member::STOP_GRACE;
use super::remains::Remains;
use super::stack::Role;
use crate::secret::random_hex;

/// How often it is looked whether they still run. Nothing tells.
const POLL: Duration = Duration::from_millis(500);

/// Stands between the name of a record and what tells it from that of the next process, which is
/// called the same. No name has it.
const APART: char = '~';

/// Random bytes behind it.
const APART_BYTES: usize = 8;

/// Whose a process is: of which release and role, if that is known.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) agent: AgentName,
    pub(super) of: Option<(ReleaseId, Role)>,
    /// Of no release that the journal knows.
    pub(super) is_stray: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Left {
    all: Arc<All>,
    /// Ended with the platform; the processes are not.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct All {
    /// By their records.
    groups: Mutex<BTreeMap<PathBuf, One>>,
    /// Records that nobody can read.
    damaged: Mutex<BTreeSet<(AgentName, PathBuf)>>,
    /// Rung when one is gone.
    bell: Arc<Notify>,
}

#[derive(Debug)]
struct One {
    whose: Whose,
    end: watch::Sender<bool>,
}

impl Left {
    pub(super) fn new(bell: Arc<Notify>) -> Self {
        let all = All {
            bell,
            ..All::default()
        };
        Self {
            all: Arc::new(all),
            tasks: Mutex::default(),
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<PathBuf, One>> {
        self.all.groups()
    }

    /// Follows what lives of a process, whose record is put where that of the next one does not
    /// overwrite it. A crash before that leaves the record where it was, and it is found there.
    pub(super) fn follow(&self, record: &Record, path: &Path, whose: Whose, ends: bool) {
        let path = set_apart(path);
        let (end, ended) = watch::channel(ends);
        let (all, remains) = (Arc::clone(&self.all), Remains::of(record));
        self.groups().insert(path.clone(), One { whose, end });
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            watch_over(&remains, ended).await;
            all.forget(&path);
        });
    }

    /// Notes a record that cannot be read: for all that is known its process lives.
    pub(super) fn note_damaged(&self, agent: AgentName, path: &Path) {
        let mut damaged = self.all.damaged();
        damaged.insert((agent, set_apart(path)));
    }

    /// Releases of an agent of which something is left.
    pub(super) fn releases(&self, agent: &AgentName) -> BTreeSet<ReleaseId> {
        let groups = self.groups();
        let ours = groups.values().filter(|one| one.whose.agent == *agent);
        ours.filter_map(|one| one.whose.of.as_ref().map(|(release, _)| *release))
            .collect()
    }

    /// How many nobody can say anything about.
    pub(super) fn strays(&self, agent: &AgentName) -> u32 {
        let groups = self.groups();
        let strays = groups
            .values()
            .filter(|one| one.whose.is_stray && one.whose.agent == *agent);
        let strays = strays.count();
        drop(groups);
        let mut damaged = self.all.damaged();
        // Whoever knows that there is no process removes the record.
        damaged.retain(|(_, path)| fs::symlink_metadata(path).is_ok());
        let damaged = damaged.iter().filter(|(of, _)| of == agent).count();
        u32::try_from(strays + damaged).unwrap_or(u32::MAX)
    }

    /// Ends what is left of a release: it holds no call any more.
    pub(super) fn end(&self, agent: &AgentName, release: ReleaseId) {
        for one in self.groups().values() {
            let of = one.whose.of.as_ref().map(|(release, _)| *release);
            if one.whose.agent == *agent && of == Some(release) {
                one.end.send_replace(true);
            }
        }
    }

    /// Ends what is left of one role, and waits until it is gone.
    pub(super) async fn make_way(&self, agent: &AgentName, of: &(ReleaseId, Role)) {
        loop {
            let mut gone = {
                let groups = self.groups();
                let mut ours = groups
                    .values()
                    .filter(|one| one.whose.agent == *agent && one.whose.of.as_ref() == Some(of));
                let Some(one) = ours.next() else {
                    return;
                };
                one.end.send_replace(true);
                one.end.subscribe()
            };
            // Its sender is dropped with it.
            while gone.changed().await.is_ok() {}
        }
    }
}

impl All {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<PathBuf, One>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<(AgentName, PathBuf)>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, path: &Path) {
        tracing::info!(path = %path.display(), "what a process had left behind is gone");
        remove(path);
        self.groups().remove(path);
        self.bell.notify_one();
    }
}

/// Returns once nothing is left.
async fn watch_over(remains: &Remains, mut end: watch::Receiver<bool>) {
    loop {
        if *end.borrow_and_update() {
            remains.end(STOP_GRACE).await;
            return;
        }
        if !remains.may_live().await {
            return;
        }
        tokio::select! {
            () = sleep(POLL) => {}
            // That nobody is left to say so means nothing.
            changed = end.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

/// Whether it is the record of one that nobody attends to.
pub(super) fn is_apart(path: &Path) -> bool {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy());
    stem.is_some_and(|stem| stem.contains(APART))
}

/// Puts a record aside; answers where it is now.
fn set_apart(path: &Path) -> PathBuf {
    if is_apart(path) {
        return path.to_owned();
    }
    let moved = || -> io::Result<PathBuf> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let apart = format!("{stem}{APART}{}.json", random_hex(APART_BYTES)?);
        let to = path.with_file_name(apart);
        fs::rename(path, &to)?;
        Ok(to)
    };
    moved().unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "the record of a process that lives could not be put aside");
        path.to_owned()
    })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the record of a process could not be removed");
        }
        _ => {}
    }
}
