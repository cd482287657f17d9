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
        },
    };
    Ok(stored.into_iter().map(known).collect())
}

/// Why something was not stored or not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Where a gate keeps what it knows.
pub trait Store: Send {
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
