//! The control store's journal, which is the audit log: a decision is written here, with what was
//! known at that moment, before it takes effect. There is no second log that could disagree.

mod calls;
mod control;
mod cursors;
mod file;
mod outcomes;
mod permits;
mod sqlite;
mod sweep;

use segue_core::audit::{Entry, GENESIS};
use segue_core::names::AgentName;

pub use calls::{
    CALL_STATE_BYTES_MAX, CALL_STATE_KEPT, CALL_STATES_MAX, CallOf, CallState, CallStateError,
    CallStates, Change, Condition, Versions,
};
pub use control::{
    Begun, ControlStore, KEY_KEPT, KEYS_PER_TOKEN_MAX, KeptAnswer, SqliteControl, TOKENS_MAX,
    TokenRecord,
};
pub use cursors::Cursors;
pub use outcomes::{
    OUTCOME_KEPT, OUTCOMES_MAX, OUTCOMES_PER_CALL_MAX, OutcomeError, OutcomeRecord, Outcomes,
};
pub use permits::{Dialler, Permit, PermitChange, PermitStore, SqlitePermits};
pub use sqlite::SqliteJournal;
pub(crate) use sweep::sweep;

/// Entries read at once: a few megabytes.
const READ_MAX: usize = 1_000;

/// The last entry of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its number; zero when there is none.
    pub seq: u64,
    /// Its digest; [`GENESIS`] when there is none.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        let (seq, hash) = (0, GENESIS.to_owned());
        Self { seq, hash }
    }
}

impl Head {
    /// The head after an entry.
    pub fn of(entry: &Entry) -> Self {
        let (seq, hash) = (entry.seq, entry.hash.clone());
        Self { seq, hash }
    }
}

/// An append-only list of decisions.
///
/// Calls block: make them where that is allowed.
pub trait Journal: Send + Sync {
    /// Appends entries that follow the entry numbered `expected_head`: all of them or none.
    ///
    /// A crash just before leaves the journal as it was, and the decision was never taken. A crash
    /// just after leaves it taken although nobody acted on it: whoever starts next replays it and
    /// acts.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when another entry is the last one: somebody else decided, and
    /// what was decided here was decided on old facts. [`StoreError::Unavailable`] when it cannot
    /// be told whether it was written: the next append or [`head`](Self::head) finds out.
    fn append(&self, expected_head: u64, entries: &[Entry]) -> Result<(), StoreError>;

    /// Reads at most `limit` entries after the one numbered `after`, oldest first; of one agent,
    /// or of all. A crash changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn read(
        &self,
        after: u64,
        limit: usize,
        agent: Option<&AgentName>,
    ) -> Result<Vec<Entry>, StoreError>;

    /// The last entry. A crash changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn head(&self) -> Result<Head, StoreError>;

    /// Gives every entry to `take`, oldest first; answers the last one. A crash changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read to its end.
    fn load_all(&self, take: &mut dyn FnMut(Entry)) -> Result<Head, StoreError> {
        let mut head = Head::default();
        loop {
            let entries = self.read(head.seq, READ_MAX, None)?;
            let Some(last) = entries.last() else {
                return Ok(head);
            };
            head = Head::of(last);
            entries.into_iter().for_each(&mut *take);
        }
    }
}

/// Why the journal could not be used. Nothing took effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another entry is the last one; replay and decide anew.
    #[error("the journal has moved on: entry {is} is the last one, not {expected}")]
    Conflict {
        /// What was thought to be the last entry.
        expected: u64,
        /// What is.
        is: u64,
    },
    /// It cannot be written or read now; the operator frees it, then the same request works.
    #[error("{what}")]
    Unavailable {
        /// What is in the way, in words.
        what: String,
        /// What the engine says.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// A newer Segue wrote it; the operator starts that one.
    #[error("the journal is of version {version}, this program reads up to {known}")]
    TooNew {
        /// Its version.
        version: u32,
        /// What this program reads.
        known: u32,
    },
}
