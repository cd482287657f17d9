//! The descriptors of a ward's calls, by their slots: a few bytes for each call.

use crate::shelves::Shelves;

use super::wire::CallKey;

/// Slots from here on are refused. It is ten times what a gateway has, and bounds what one that
/// counts wrong can have us allocate.
const SLOTS_MAX: u32 = 1 << 20;

/// See the module. `F` is a descriptor.
#[derive(Debug)]
pub(super) struct Calls<F> {
    /// With the generation: an earlier call of a slot has ended before a later one is held, though
    /// that may be said in the other order.
    slots: Shelves<Option<(u32, [F; 2])>>,
    held: usize,
}

impl<F> Default for Calls<F> {
    fn default() -> Self {
        Self {
            slots: Shelves::default(),
            held: 0,
        }
    }
}

impl<F> Calls<F> {
    pub(super) fn len(&self) -> usize {
        self.held
    }

    pub(super) fn get(&self, call: CallKey) -> Option<&[F; 2]> {
        let (generation, ends) = self.slots.get(call.slot as usize)?.as_ref()?;
        (*generation == call.generation).then_some(ends)
    }

    /// False: no gateway has such a slot.
    pub(super) fn insert(&mut self, call: CallKey, ends: [F; 2]) -> bool {
        if call.slot >= SLOTS_MAX {
            return false;
        }
        let slot = call.slot as usize;
        while self.slots.len() <= slot {
            self.slots.push(None);
        }
        let before = self.slots[slot].replace((call.generation, ends));
        self.held += usize::from(before.is_none());
        true
    }

    pub(super) fn remove(&mut self, call: CallKey) -> Option<[F; 2]> {
        let slot = self.slots.get_mut(call.slot as usize)?;
        let (_, ends) = slot.take_if(|held| held.0 == call.generation)?;
        self.held -= 1;
        Some(ends)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = CallKey> {
        let slots = (0..).zip(self.slots.iter());
        slots.filter_map(|(slot, held)| {
            let generation = held.as_ref()?.0;
            Some(CallKey { slot, generation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, generation: u32) -> CallKey {
        CallKey { slot, generation }
    }

    #[test]
    fn a_later_call_of_a_slot_stays_when_the_end_of_an_earlier_one_is_told() {
        let mut calls = Calls::default();
        assert!(calls.insert(key(70, 1), [1, 2]) && calls.insert(key(3, 9), [3, 4]));
        assert!(calls.insert(key(70, 2), [5, 6]));
        assert_eq!((calls.len(), calls.get(key(70, 1))), (2, None));
        calls.remove(key(70, 1));
        calls.remove(key(900, 0));
        assert_eq!(calls.get(key(70, 2)), Some(&[5, 6]));
        assert_eq!(calls.keys().collect::<Vec<_>>(), [key(3, 9), key(70, 2)]);
        calls.remove(key(70, 2));
        calls.remove(key(70, 2));
        assert_eq!(calls.len(), 1);
        assert!(!calls.insert(key(SLOTS_MAX, 0), [7, 8]));
    }

    #[test]
    fn a_held_call_is_small() {
        assert!(size_of::<Option<(u32, [std::os::fd::OwnedFd; 2])>>() <= 12);
    }
}
