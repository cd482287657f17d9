//! The records of an agent's calls by their ids, in little more memory than they take themselves.
//!
//! A map of the standard library has room for up to twice what it holds, of keys and values. Here
//! that room is only of numbers, which say where a record lies.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use segue_core::names::CallId;

use crate::shelves::Shelves;

use super::book::Kept;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Keyed, since callers choose their ids.
    hasher: RandomState,
    index: HashTable<u32>,
    places: Shelves<Option<(CallId, Kept)>>,
    free: Vec<u32>,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(super) fn get(&self, call: &CallId) -> Option<&Kept> {
        let (_, kept) = self.places[self.find(call)?].as_ref()?;
        Some(kept)
    }

    pub(super) fn get_mut(&mut self, call: &CallId) -> Option<&mut Kept> {
        let place = self.find(call)?;
        let (_, kept) = self.places[place].as_mut()?;
        Some(kept)
    }

    /// The record of a call, which is made if there is none.
    pub(super) fn get_or_insert(
        &mut self,
        call: &CallId,
        fresh: impl FnOnce() -> Kept,
    ) -> &mut Kept {
        let place = match self.find(call) {
            Some(place) => place,
            None => self.insert(call.clone(), fresh()),
        };
        let (_, kept) = self.places[place]
            .as_mut()
            .expect("found or just put there");
        kept
    }

    pub(super) fn remove(&mut self, call: &CallId) -> Option<Kept> {
        let Self {
            hasher,
            index,
            places,
            free,
        } = self;
        let is = |number: &u32| is_at(places, *number, call);
        let (number, _) = index.find_entry(hasher.hash_one(call), is).ok()?.remove();
        free.push(number);
        let (_, kept) = places[number as usize].take()?;
        Some(kept)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&CallId, &Kept)> {
        let taken = self.places.iter().flatten();
        taken.map(|(call, kept)| (call, kept))
    }

    fn find(&self, call: &CallId) -> Option<usize> {
        let is = |number: &u32| is_at(&self.places, *number, call);
        let number = self.index.find(self.hasher.hash_one(call), is)?;
        Some(*number as usize)
    }

    /// Answers where it lies. There must be none of that call.
    fn insert(&mut self, call: CallId, kept: Kept) -> usize {
        let Self {
            hasher,
            index,
            places,
            free,
        } = self;
        let hash = hasher.hash_one(&call);
        let number = free.pop().unwrap_or_else(|| {
            places.push(None);
            u32::try_from(places.len() - 1).expect("far fewer calls than 2^32")
        });
        places[number as usize] = Some((call, kept));
        index.insert_unique(hash, number, |number| {
            let there = places[*number as usize].as_ref();
            let (call, _) = there.expect("what the index names is there");
            hasher.hash_one(call)
        });
        number as usize
    }
}

fn is_at(places: &Shelves<Option<(CallId, Kept)>>, number: u32, call: &CallId) -> bool {
    places[number as usize]
        .as_ref()
        .is_some_and(|(there, _)| there == call)
}
