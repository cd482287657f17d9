//! Who runs workers and components. The driver says what should be; a platform makes it so at its
//! own pace and says what is. Both are levels and not edges, so nothing is lost with a message.

pub mod process;
pub(crate) mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use segue_core::names::{AgentName, ComponentName, ReleaseId, WorkerId};
use segue_core::release::Release;
use segue_core::rollout::Want;

/// Variable in a release's environment that holds the path of its health check. A release freezes
/// its own copy, as of everything else it is started with.
pub const HEALTH_PATH: &str = "SEGUE_HEALTH_PATH";

/// Variable in a release's environment that holds the path to which its workers are told what
/// happens to their calls.
pub const NOTIFY_PATH: &str = "SEGUE_NOTIFY_PATH";

/// Runs workers, and the components they need.
pub trait Platform: Send + Sync + fmt::Debug {
    /// Makes the workers and components of a release what they should be. Returns at once; saying
    /// it twice changes nothing. A process is stopped for [`Want::Stop`] and for nothing else.
    fn reconcile(&self, agent: &AgentName, release: &Release, want: Want);

    /// What workers are there. Looked at whenever the platform rings, and every now and then.
    fn workers(&self, agent: &AgentName) -> Vec<WorkerStatus>;

    /// What components are there.
    fn components(&self, agent: &AgentName) -> Vec<ComponentStatus>;

    /// Releases of an agent that have, or may be about to have, a process of any kind, also one
    /// that was only started by one of theirs.
    fn processes(&self, agent: &AgentName) -> BTreeSet<ReleaseId>;

    /// How many processes of an agent run, or may run, of which nobody can say to which release of
    /// the journal they belong.
    fn strays(&self, agent: &AgentName) -> u32;
}

/// What a platform says of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Which.
    pub worker: WorkerId,
    /// Of which release.
    pub release: ReleaseId,
    /// How far it is. Ready means that every component of its release was, too.
    pub state: WorkerState,
    /// Where it listens, or is going to.
    pub addr: SocketAddr,
    /// How many calls it may hold.
    pub capacity: u32,
    /// Its health check.
    pub health_path: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// Whether it was found running. It was ready then as far as anybody knows.
    pub adopted: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Its output.
    pub log: PathBuf,
    /// Why it is not running, if it is not; or what is odd about it.
    pub why: String,
    /// How it ended the last time, if it did.
    pub ended: Option<String>,
}

/// What a platform says of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentStatus {
    /// Which.
    pub component: ComponentName,
    /// Of which release.
    pub release: ReleaseId,
    /// How far it is.
    pub state: WorkerState,
    /// Where it listens: the same place for as long as its release has any process.
    pub addr: SocketAddr,
    /// Its health check.
    pub health_path: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its output.
    pub log: PathBuf,
    /// Why it is not running, if it is not; or what is odd about it.
    pub why: String,
    /// How it ended the last time, if it did.
    pub ended: Option<String>,
}

/// How far a worker or a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// It runs and has not answered yet, or waits for what it depends on.
    Starting,
    /// It answered.
    Ready,
    /// It ended, and is started again after a while.
    BackingOff,
    /// It ended, and is not started again.
    Gone,
}

impl WorkerState {
    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing-off",
            Self::Gone => "gone",
        }
    }
}

/// The health path that a release froze.
pub fn health_path(release: &Release) -> Option<String> {
    release.content.env.get(HEALTH_PATH).cloned()
}

/// The path to which workers are told what happens to their calls, as their release froze it.
pub fn notify_path(release: &Release) -> Option<String> {
    release.content.env.get(NOTIFY_PATH).cloned()
}
