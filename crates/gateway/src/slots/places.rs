//! Where calls are: the part of a call's identity that thousands of them share.
//!
//! Agent, release and worker take some three hundred bytes and hardly differ between calls, so a
//! slot names them by number. A place is written down before a slot names it, and its room is used
//! for another one only when no slot does any more.

use std::collections::HashMap;
use std::net::SocketAddr;

use segue_core::names::{AgentName, Label, ReleaseId, WorkerId};
use segue_core::table::Epoch;
use serde::{Deserialize, Serialize};

use crate::ledger::Identity;

use super::layout::{Layout, PLACE_BYTES, PLACES_MAX};
use super::memory::Memory;

/// A place as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) agent: AgentName,
    pub(super) release: ReleaseId,
    pub(super) label: Label,
    pub(super) epoch: Epoch,
    pub(super) worker: WorkerId,
    pub(super) addr: SocketAddr,
}

/// The same, of a call that is about to get a slot.
#[derive(Serialize)]
struct Given<'a> {
    agent: &'a AgentName,
    release: &'a ReleaseId,
    label: &'a Label,
    epoch: Epoch,
    worker: &'a WorkerId,
    addr: SocketAddr,
}

/// Which places are in use, and by how many slots.
#[derive(Debug, Default)]
pub(super) struct Places {
    known: HashMap<Box<[u8]>, u32>,
    used: Vec<Used>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Used {
    slots: u32,
    bytes: Box<[u8]>,
}

impl Places {
    /// The number of a place, which one more slot uses now. `None`: there is no room for it.
    pub(super) fn enter(
        &mut self,
        memory: &Memory,
        layout: Layout,
        identity: &Identity,
        (worker, addr): (&WorkerId, SocketAddr),
    ) -> Option<u32> {
        let given = Given {
            agent: &identity.agent,
            release: &identity.release,
            label: &identity.label,
            epoch: identity.epoch,
            worker,
            addr,
        };
        let bytes = serde_json::to_vec(&given).ok()?;
        if let Some(&index) = self.known.get(&bytes[..]) {
            self.used[index as usize].slots += 1;
            return Some(index);
        }
        let length = u16::try_from(bytes.len()).ok()?;
        if bytes.len() + 2 > PLACE_BYTES {
            return None;
        }
        let bytes = bytes.into_boxed_slice();
        let used = Used {
            slots: 1,
            bytes: bytes.clone(),
        };
        let index = if let Some(index) = self.free.pop() {
            self.used[index as usize] = used;
            index
        } else if self.used.len() < PLACES_MAX {
            self.used.push(used);
            u32::try_from(self.used.len() - 1).expect("below PLACES_MAX")
        } else {
            return None;
        };
        let at = layout.place(index as usize);
        memory.write(at + 2, &bytes);
        memory.write(at, &length.to_le_bytes());
        self.known.insert(bytes, index);
        Some(index)
    }

    /// One slot less is there.
    pub(super) fn leave(&mut self, index: u32) {
        let used = &mut self.used[index as usize];
        used.slots -= 1;
        if used.slots == 0 {
            let bytes = std::mem::take(&mut used.bytes);
            self.known.remove(&bytes);
            self.free.push(index);
        }
    }
}

/// What is written at a number. `None`: nothing that could be a place.
pub(super) fn read(memory: &Memory, layout: Layout, index: u32) -> Option<Place> {
    let index = usize::try_from(index).ok().filter(|n| *n < PLACES_MAX)?;
    json(memory, layout.place(index), PLACE_BYTES)
}

/// JSON behind its length, in at most `room` bytes.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    memory: &Memory,
    at: usize,
    room: usize,
) -> Option<T> {
    let mut bytes = Vec::new();
    memory.read(at..at + 2, &mut bytes);
    let length = usize::from(u16::from_le_bytes(*bytes.first_chunk()?));
    if length + 2 > room {
        return None;
    }
    bytes.clear();
    memory.read(at + 2..at + 2 + length, &mut bytes);
    serde_json::from_slice(&bytes).ok()
}
