//! What is known of jobs, lines and connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::drains::Drains;
use super::vacancy::Again;
use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::route::Reason;
use crate::spec::Source;
use crate::table::Epoch;
use crate::time::Timestamp;

/// Bytes that are passed on as they are.
pub type Body = Arc<[u8]>;

/// One connection of a worker. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerKey(pub u64);

/// One registration at the server. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineKey(pub u64);

/// What makes workers interchangeable for the server: it signs tokens by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId {
    /// Our name of the agent.
    pub agent: AgentName,
    /// The server's name of it.
    pub agent_name: String,
    /// What its jobs are about, as the protocol numbers it.
    pub kind: u32,
    /// Its namespace.
    pub namespace: String,
    /// What its participants may do, as the worker wrote it.
    pub permissions: Option<Vec<u8>>,
}

/// A job as the server offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its id.
    pub job: CallId,
    /// Its room.
    pub room: String,
    /// What its metadata says by name, as requests say it in headers and forms.
    pub fields: BTreeMap<String, String>,
    /// What is needed to dispatch it again, if it can be.
    pub again: Option<Box<Again>>,
    /// The offer itself.
    pub body: Body,
}

impl Ask {
    /// The first of these sources that its metadata has.
    pub(super) fn find(&self, sources: &[Source]) -> Option<&str> {
        let named = |source: &Source| match source {
            Source::Header(name)
            | Source::Query(name)
            | Source::Cookie(name)
            | Source::Form(name) => self.field(name),
            Source::Path(_) => None,
        };
        sources.iter().find_map(named)
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// What must be known of a job after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub job: CallId,
    /// Whose.
    pub agent: AgentName,
    /// Its room; empty if it is only known from its worker.
    pub room: String,
    /// Its release.
    pub release: ReleaseId,
    /// The worker that has it.
    pub worker: WorkerId,
    /// Under which table it was decided.
    pub epoch: Epoch,
    /// Why it went there.
    pub reason: Reason,
    /// Whether an override brought it in.
    pub is_override: bool,
    /// When it was decided.
    pub decided: Timestamp,
    /// When it was given to a worker.
    pub begun: Timestamp,
    /// Whether its worker said that it runs: such a worker also says when it is over, and claims it.
    #[serde(default)]
    pub spoken: bool,
    /// Who said that its worker takes no more jobs: that holds when the worker comes back.
    #[serde(default, skip_serializing_if = "Drains::is_empty")]
    pub drains: Drains,
    /// What is needed to dispatch it again, where that is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Box<Again>>,
}
