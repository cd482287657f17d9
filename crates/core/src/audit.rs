//! The hash chain of the audit log.
//!
//! Each entry holds the digest of the one before it, so that an edited, removed or reordered
//! entry is found. Someone who owns the disk can still rewrite the whole chain: only a copy of
//! the head kept elsewhere finds that.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::names::{AgentName, hex};
use crate::time::Timestamp;

/// The digest before the first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One decision, as it was written down before it took effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up by one from 1.
    pub seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// Whose rollout.
    pub agent: AgentName,
    /// Who decided: `operator:NAME`, or `segue` for the machine itself.
    pub actor: String,
    /// The fact, as journaled.
    pub fact: Value,
    /// What was known at that moment.
    pub inputs: Value,
    /// Digest of the entry before.
    pub prev: String,
    /// Digest of this entry: see [`Entry::digest`].
    pub hash: String,
}

impl Entry {
    /// Builds the entry that follows `prev`.
    pub fn after(
        (prev_seq, prev): (u64, &str),
        at: Timestamp,
        agent: AgentName,
        actor: String,
        fact: Value,
        inputs: Value,
    ) -> Self {
        let mut entry = Self {
            seq: prev_seq + 1,
            at,
            agent,
            actor,
            fact,
            inputs,
            prev: prev.to_owned(),
            hash: String::new(),
        };
        entry.hash = entry.digest();
        entry
    }

    /// SHA-256 over every field but `hash`, as JSON in field order (objects inside have sorted
    /// keys, because `serde_json` keeps its maps sorted).
    pub fn digest(&self) -> String {
        let canonical = serde_json::to_vec(&(
            "segue/audit/1",
            self.seq,
            self.at,
            &self.agent,
            &self.actor,
            &self.fact,
            &self.inputs,
            &self.prev,
        ))
        .expect("JSON values always serialise");
        hex(&Sha256::digest(&canonical))
    }
}

/// Where a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenChain {
    /// An entry was edited.
    #[error("entry {seq} does not match its own digest: it was edited")]
    Edited {
        /// Which.
        seq: u64,
    },
    /// An entry is missing, was inserted or was moved.
    #[error("entry {seq} does not follow entry {after}: one was removed, inserted or moved")]
    Torn {
        /// The last good one.
        after: u64,
        /// The first bad one.
        seq: u64,
    },
}

/// Checks a chain from its first entry on; answers the number of entries and the head digest.
///
/// # Errors
///
/// The first place where it breaks.
pub fn verify<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<(u64, String), BrokenChain> {
    let mut head = (0, GENESIS.to_owned());
    for entry in entries {
        if entry.seq != head.0 + 1 || entry.prev != head.1 {
            return Err(BrokenChain::Torn {
                after: head.0,
                seq: entry.seq,
            });
        }
        if entry.digest() != entry.hash {
            return Err(BrokenChain::Edited { seq: entry.seq });
        }
        head = (entry.seq, entry.hash.clone());
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for n in 0..5_u64 {
            let prev = entries
                .last()
                .map_or((0, GENESIS.to_owned()), |e| (e.seq, e.hash.clone()));
            entries.push(Entry::after(
                (prev.0, &prev.1),
                Timestamp(n),
                "desk".parse().unwrap(),
                "segue".to_owned(),
                serde_json::json!({ "fact": n }),
                Value::Null,
            ));
        }
        entries
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        assert_eq!(verify(&chain()).unwrap().0, 5);
        for index in 0..5 {
            let mut edited = chain();
            edited[index].fact = serde_json::json!({ "fact": "other" });
            assert!(matches!(verify(&edited), Err(BrokenChain::Edited { .. })));
            // An edit that also mends its own digest breaks the next link (or moves the head).
            edited[index].hash = edited[index].digest();
            assert!(index == 4 || matches!(verify(&edited), Err(BrokenChain::Torn { .. })));
            let mut shorter = chain();
            shorter.remove(index);
            assert!(index == 4 || verify(&shorter).is_err());
        }
        let mut swapped = chain();
        swapped.swap(1, 2);
        assert!(verify(&swapped).is_err());
    }
}
