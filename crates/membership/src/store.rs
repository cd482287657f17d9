//! What a gate must still know after it was killed.

use std::sync::{Arc, Mutex, PoisonError};

use segue_core::names::{Environment, TokenId};
use segue_core::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// Version of the stored form. In the first one, which is read, too, tokens have no digest.
pub const FORMAT: u32 = 2;

/// What is stored. It holds no secret: everything in it was shown to the gate by somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// [`FORMAT`].
    pub format: u32,
    /// Where.
    pub env: Environment,
    /// The signed key set in force.
    pub keys: String,
    /// The highest version of a manifest that was acted on; nothing below it ever is again.
    pub ver: u64,
    /// That manifest, as it was signed.
    pub manifest: Option<String>,
    /// Until when it counts as fresh.
    pub fresh_until: Timestamp,
    /// Tokens that were admitted once.
    #[serde(deserialize_with = "known")]
    pub known: Vec<Known>,
}

/// A token that was admitted once. It lets its worker come again to end its calls, whatever has
/// become of the token since: so it is told from others of the same id by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its id.
    pub token: TokenId,
    /// Until when it is remembered.
    pub until: Timestamp,
    /// SHA-256 of it, as it was shown. None: it was stored in the first form; it is known by its id, if
    /// it still is good otherwise.
    pub digest: Option<String>,
    /// Whose it is, if it says: of each only the newest few are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A token as the first form has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    First(TokenId, Timestamp),
    Now(Known),
}

fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Known>, D::Error> {
    let stored: Vec<Stored> = Vec::deserialize(from)?;
    let known = |is| match is {
        Stored::Now(known) => known,
        Stored::First(token, until) => Known {
            token,
            until,
            digest: None,
            of: None,
        },
    };
    Ok(stored.into_iter().map(known).collect())
}

/// Why something was not stored or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Where a gate keeps what it knows.
pub trait Store: Send + Sync {
    /// What was stored last; nothing before the first time.
    ///
    /// # Errors
    ///
    /// When it cannot be read. A gate does not open then: it would take old manifests for new ones.
    fn load(&self) -> Result<Option<Kept>, StoreError>;

    /// Stores, and returns once it would survive a loss of power. A crash before that leaves what was
    /// stored before; one after it leaves this.
    ///
    /// # Errors
    ///
    /// When it may not have been stored. The gate does not act on it.
    fn save(&self, kept: &Kept) -> Result<(), StoreError>;
}

/// What is to be stored, outside of any lock that the gate is under. Nothing replaces what is newer.
pub struct Saving {
    pub(crate) kept: Kept,
    pub(crate) disk: Arc<Disk>,
    pub(crate) generation: u64,
}

/// Where it is stored, one at a time.
pub(crate) struct Disk {
    store: Box<dyn Store>,
    /// What was stored last.
    written: Mutex<u64>,
}

impl Disk {
    pub(crate) fn new(store: Box<dyn Store>) -> Self {
        let written = Mutex::default();
        Self { store, written }
    }

    pub(crate) fn load(&self) -> Result<Option<Kept>, StoreError> {
        self.store.load()
    }
}

impl Saving {
    /// Stores it, unless something newer is.
    ///
    /// # Errors
    ///
    /// When it cannot be stored: give it back to [`crate::Gate::unsaved`].
    pub fn write(&self) -> Result<(), StoreError> {
        let mut written = (self.disk.written.lock()).unwrap_or_else(PoisonError::into_inner);
        if *written < self.generation {
            self.disk.store.save(&self.kept)?;
            *written = self.generation;
        }
        Ok(())
    }
}

/// A store that forgets with the process: for tests, and for looking at a manifest once.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Option<Kept>>>);

impl Store for Memory {
    fn load(&self) -> Result<Option<Kept>, StoreError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn save(&self, kept: &Kept) -> Result<(), StoreError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.clone());
        Ok(())
    }
}
