//! What gateways have given into keeping: the rules, without sockets.
//!
//! A ward belongs to one gateway process. It is filled; it counts from the moment on when its
//! gateway says that the calls are in its hands; and when that process dies, it is an orphan until
//! another ward counts in its place. So at every instant each call is in exactly one ward that
//! counts, and a gateway that dies while it takes an orphan over leaves it as it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::calls::Calls;
use super::wire::{CallKey, Figures, WardId};
use crate::ledger::CALLS_MAX;

/// Most wards at once: one for each gateway process of a machine, and there are two or three.
pub(super) const WARDS_MAX: usize = 16;

/// How long an orphan is kept that nobody claims. Its callers hear nothing, and hang up long
/// before.
pub(super) const ORPHAN_MAX: Duration = Duration::from_mins(10);

/// Why something is not done. The gateway goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("there are {WARDS_MAX} wards already")]
    TooManyWards,
    #[error("a ward holds {CALLS_MAX} calls at most")]
    TooManyCalls,
    #[error("no descriptors are left")]
    NoRoom,
    #[error("the ward was taken over, or never was")]
    NoWard,
    #[error("that ward is open already")]
    Twice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its gateway does not relay its calls yet.
    Filling,
    /// Its gateway relays its calls.
    Active,
    /// Its gateway is no more.
    Orphaned {
        since: Instant,
        /// Who takes it over.
        claimed: Option<WardId>,
    },
}

/// What one gateway has given into keeping. `F` is a descriptor.
#[derive(Debug)]
pub(super) struct Ward<F> {
    state: State,
    pub(super) memory: Option<F>,
    pub(super) listener: Option<F>,
    calls: Calls<F>,
    /// Calls of which another ward has, or had, the same descriptors.
    shared: HashMap<CallKey, Arc<[F; 2]>>,
}

impl<F> Ward<F> {
    fn new(memory: Option<F>, listener: Option<F>) -> Self {
        Self {
            state: State::Filling,
            memory,
            listener,
            calls: Calls::default(),
            shared: HashMap::new(),
        }
    }

    /// How many calls it holds.
    pub(super) fn len(&self) -> usize {
        self.calls.len() + self.shared.len()
    }

    /// Which they are.
    pub(super) fn keys(&self) -> impl Iterator<Item = CallKey> {
        self.calls.keys().chain(self.shared.keys().copied())
    }

    /// The descriptors of one of them: caller, worker.
    pub(super) fn ends(&self, call: CallKey) -> Option<&[F; 2]> {
        let shared = || self.shared.get(&call).map(|ends| &**ends);
        self.calls.get(call).or_else(shared)
    }

    fn has(&self, call: CallKey) -> bool {
        self.ends(call).is_some()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Wards<F> {
    by_id: BTreeMap<WardId, Ward<F>>,
    /// Calls whose descriptors are shared: two descriptors each, in however many wards.
    shared: usize,
    unheld: u64,
}

impl<F> Wards<F> {
    pub(super) fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
            shared: 0,
            unheld: 0,
        }
    }

    pub(super) fn get(&self, id: WardId) -> Option<&Ward<F>> {
        self.by_id.get(&id)
    }

    /// Begins one.
    pub(super) fn open(
        &mut self,
        id: WardId,
        memory: Option<F>,
        listener: Option<F>,
    ) -> Result<(), Fault> {
        if self.by_id.contains_key(&id) {
            return Err(Fault::Twice);
        }
        if self.by_id.len() >= WARDS_MAX {
            return Err(Fault::TooManyWards);
        }
        self.by_id.insert(id, Ward::new(memory, listener));
        Ok(())
    }

    /// Holds a call. Again is no change: the descriptors are of the same sockets.
    pub(super) fn hold(&mut self, id: WardId, call: CallKey, ends: [F; 2]) -> Result<(), Fault> {
        let ward = self.filled(id, call)?;
        if !ward.has(call) && !ward.calls.insert(call, ends) {
            return Err(Fault::TooManyCalls);
        }
        Ok(())
    }

    /// Holds a call by the descriptors that another ward has of the same sockets.
    pub(super) fn share(
        &mut self,
        (lender, lent): (WardId, CallKey),
        id: WardId,
        call: CallKey,
    ) -> Result<(), Fault> {
        self.filled(id, call)?;
        let lender = self.by_id.get_mut(&lender).ok_or(Fault::NoWard)?;
        let ends = match lender.calls.remove(lent) {
            Some(ends) => {
                self.shared += 1;
                Arc::clone(lender.shared.entry(lent).or_insert(Arc::new(ends)))
            }
            None => Arc::clone(lender.shared.get(&lent).ok_or(Fault::NoWard)?),
        };
        self.filled(id, call)?.shared.insert(call, ends);
        Ok(())
    }

    /// A ward that has room for a call.
    fn filled(&mut self, id: WardId, call: CallKey) -> Result<&mut Ward<F>, Fault> {
        let ward = self.by_id.get_mut(&id).ok_or(Fault::NoWard)?;
        if ward.len() >= CALLS_MAX && !ward.has(call) {
            return Err(Fault::TooManyCalls);
        }
        Ok(ward)
    }

    /// Whether a ward holds a call.
    pub(super) fn holds(&self, id: WardId, call: CallKey) -> bool {
        self.get(id).is_some_and(|ward| ward.has(call))
    }

    /// All others, in which descriptors of the calls of this one may be.
    pub(super) fn beside(&self, id: WardId) -> impl Iterator<Item = (WardId, &Ward<F>)> {
        let others = self.by_id.iter().filter(move |(other, _)| **other != id);
        others.map(|(other, ward)| (*other, ward))
    }

    /// Lets go of a call that ended, if it was ever held.
    pub(super) fn release(&mut self, id: WardId, call: CallKey) {
        if let Some(ward) = self.by_id.get_mut(&id) {
            ward.calls.remove(call);
            let ended = ward.shared.remove(&call).and_then(Arc::into_inner);
            self.shared -= usize::from(ended.is_some());
        }
    }

    fn remove(&mut self, id: WardId) {
        if let Some(ward) = self.by_id.remove(&id) {
            let ended = ward.shared.into_values().filter_map(Arc::into_inner);
            self.shared -= ended.count();
        }
    }

    /// Its gateway listens no more.
    pub(super) fn unlisten(&mut self, id: WardId) {
        if let Some(ward) = self.by_id.get_mut(&id) {
            ward.listener = None;
        }
    }

    /// From here on this ward counts, and those that it replaces are dropped.
    pub(super) fn own(&mut self, id: WardId, replaces: &[WardId]) -> Result<(), Fault> {
        let ward = self.by_id.get_mut(&id).ok_or(Fault::NoWard)?;
        ward.state = State::Active;
        for other in replaces.iter().filter(|other| **other != id) {
            self.remove(*other);
        }
        Ok(())
    }

    /// Its gateway ends in order.
    pub(super) fn bye(&mut self, id: WardId) {
        self.remove(id);
        self.let_go(id);
    }

    /// The connection of a gateway has closed, and nobody knows yet whether the process lives. What
    /// it only began is dropped: nobody relays by it.
    pub(super) fn cut(&mut self, id: WardId) {
        self.let_go(id);
        if self.is(id, State::Filling) {
            self.remove(id);
        }
    }

    /// The process of a gateway is no more, or has given its calls away. Answers whether it leaves
    /// an orphan.
    pub(super) fn died(&mut self, id: WardId, now: Instant) -> bool {
        self.cut(id);
        if !self.is(id, State::Active) {
            return false;
        }
        let ward = self.by_id.get_mut(&id).expect("it is active");
        ward.state = State::Orphaned {
            since: now,
            claimed: None,
        };
        true
    }

    /// Gives a gateway the orphans that nobody else is taking over.
    pub(super) fn claim(&mut self, by: WardId) -> Vec<WardId> {
        let mut taken = Vec::new();
        for (id, ward) in &mut self.by_id {
            if let State::Orphaned { claimed, .. } = &mut ward.state
                && claimed.is_none_or(|claimed| claimed == by)
            {
                *claimed = Some(by);
                taken.push(*id);
            }
        }
        taken
    }

    /// Whether there is an orphan that nobody takes over.
    pub(super) fn has_unclaimed(&self) -> bool {
        let unclaimed =
            |ward: &Ward<F>| matches!(ward.state, State::Orphaned { claimed: None, .. });
        self.by_id.values().any(unclaimed)
    }

    /// Whether there is any orphan.
    pub(super) fn has_orphans(&self) -> bool {
        let orphaned = |ward: &Ward<F>| matches!(ward.state, State::Orphaned { .. });
        self.by_id.values().any(orphaned)
    }

    /// Drops the orphans that nobody took over for [`ORPHAN_MAX`]. Answers how many calls that
    /// ends.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let is_over = |ward: &Ward<F>| match ward.state {
            State::Orphaned {
                since,
                claimed: None,
            } => now.saturating_duration_since(since) >= ORPHAN_MAX,
            _ => false,
        };
        let over = self.by_id.iter().filter(|(_, ward)| is_over(ward));
        let (ids, calls): (Vec<WardId>, Vec<usize>) =
            over.map(|(id, ward)| (*id, ward.len())).unzip();
        for id in ids {
            self.remove(id);
        }
        calls.into_iter().sum()
    }

    /// So many calls could not be held.
    pub(super) fn count_unheld(&mut self, calls: usize) {
        self.unheld += calls as u64;
    }

    pub(super) fn figures(&self) -> Figures {
        let mut figures = Figures {
            unheld: self.unheld,
            ..Figures::default()
        };
        for ward in self.by_id.values() {
            let calls = ward.len() as u64;
            match ward.state {
                State::Filling => {}
                State::Active => {
                    figures.held += calls;
                    figures.gateways += 1;
                }
                State::Orphaned { .. } => figures.orphaned += calls,
            }
        }
        figures
    }

    /// Descriptors in all of them.
    pub(super) fn descriptors(&self) -> usize {
        let count = |ward: &Ward<F>| {
            2 * ward.calls.len()
                + usize::from(ward.memory.is_some())
                + usize::from(ward.listener.is_some())
        };
        self.by_id.values().map(count).sum::<usize>() + 2 * self.shared
    }

    /// It takes nothing over any more.
    fn let_go(&mut self, by: WardId) {
        for ward in self.by_id.values_mut() {
            if let State::Orphaned { claimed, .. } = &mut ward.state
                && *claimed == Some(by)
            {
                *claimed = None;
            }
        }
    }

    fn is(&self, id: WardId, state: State) -> bool {
        self.by_id.get(&id).is_some_and(|ward| ward.state == state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> CallKey {
        CallKey {
            slot,
            generation: 0,
        }
    }

    /// A ward of a gateway that relays one call.
    fn active(wards: &mut Wards<u32>, id: WardId) {
        wards.open(id, Some(0), Some(1)).unwrap();
        wards.hold(id, key(0), [2, 3]).unwrap();
        wards.own(id, &[]).unwrap();
    }

    #[test]
    fn an_orphan_stays_until_another_ward_counts_in_its_place() {
        let now = Instant::now();
        let mut wards = Wards::new();
        active(&mut wards, 1);
        assert!(wards.died(1, now));
        for crashing in [2, 3] {
            assert_eq!(wards.claim(crashing), [1]);
            wards.open(crashing, None, None).unwrap();
            wards.hold(crashing, key(9), [2, 3]).unwrap();
            assert!(!wards.died(crashing, now), "it never counted");
            assert!(wards.get(crashing).is_none());
        }
        assert_eq!(wards.claim(4), [1]);
        assert!(wards.claim(5).is_empty(), "one gateway takes it over");
        assert_eq!(wards.claim(4), [1], "again is the same");
        wards.open(4, None, None).unwrap();
        wards.hold(4, key(0), [2, 3]).unwrap();
        wards.own(4, &[1]).unwrap();
        assert!(wards.get(1).is_none());
        assert!(!wards.has_orphans());
        assert_eq!(wards.figures().held, 1);
    }

    #[test]
    fn a_gateway_that_lives_leaves_no_orphan() {
        let mut wards = Wards::new();
        active(&mut wards, 1);
        wards.cut(1);
        assert!(wards.claim(2).is_empty(), "its process may still relay");
        // It comes back and says so.
        wards.open(3, None, None).unwrap();
        wards.own(3, &[1]).unwrap();
        assert!(wards.get(1).is_none());
        wards.bye(3);
        assert_eq!(wards.figures(), Figures::default());
    }

    #[test]
    fn a_handoff_drops_the_giver_when_the_taker_says_so_and_not_before() {
        let now = Instant::now();
        let mut wards = Wards::new();
        active(&mut wards, 1);
        wards.open(2, None, None).unwrap();
        wards.hold(2, key(5), [2, 3]).unwrap();
        assert_eq!(wards.figures().held, 1, "only what counts is counted");
        assert!(
            wards.died(1, now),
            "the giver dies before the taker is ready"
        );
        wards.own(2, &[1]).unwrap();
        assert!(!wards.has_orphans());
        // What the giver says behind that is nobody's.
        assert_eq!(wards.hold(1, key(1), [4, 5]), Err(Fault::NoWard));
        wards.release(1, key(1));
        assert!(!wards.died(1, now));
    }

    #[test]
    fn an_orphan_that_nobody_wants_is_dropped_in_the_end() {
        let now = Instant::now();
        let mut wards = Wards::new();
        active(&mut wards, 1);
        wards.died(1, now);
        assert!(wards.has_unclaimed());
        assert_eq!(wards.expire(now + ORPHAN_MAX / 2), 0);
        wards.claim(2);
        assert_eq!(wards.expire(now + ORPHAN_MAX), 0, "it is being taken over");
        wards.cut(2);
        assert_eq!(wards.expire(now + ORPHAN_MAX), 1);
        assert_eq!(wards.descriptors(), 0);
    }

    #[test]
    fn wards_are_bounded_and_opened_once() {
        let mut wards = Wards::<u32>::new();
        for id in 0..WARDS_MAX as u64 {
            wards.open(id, None, None).unwrap();
        }
        assert_eq!(wards.open(99, None, None), Err(Fault::TooManyWards));
        assert_eq!(wards.open(1, None, None), Err(Fault::Twice));
        wards.cut(1);
        wards.open(99, None, None).unwrap();
        assert_eq!(wards.own(1, &[]), Err(Fault::NoWard));
    }

    /// A gateway takes over from another, and there is room for one of both.
    #[test]
    fn wards_may_have_the_same_descriptors() {
        let now = Instant::now();
        for giver_first in [true, false] {
            let mut wards = Wards::new();
            active(&mut wards, 1);
            wards.open(2, None, None).unwrap();
            for _ in 0..2 {
                wards.share((1, key(0)), 2, key(5)).unwrap();
                assert_eq!(wards.descriptors(), 4);
            }
            assert_eq!(wards.get(2).unwrap().ends(key(5)), Some(&[2, 3]));
            assert_eq!(wards.get(1).unwrap().ends(key(0)), Some(&[2, 3]));
            let lent = (1, key(9));
            assert_eq!(wards.share(lent, 2, key(6)), Err(Fault::NoWard));
            if giver_first {
                wards.died(1, now);
                wards.own(2, &[1]).unwrap();
                assert_eq!((wards.descriptors(), wards.figures().held), (2, 1));
                wards.release(2, key(5));
            } else {
                wards.cut(2);
                assert_eq!(wards.descriptors(), 4);
                wards.release(1, key(0));
                wards.bye(1);
            }
            assert_eq!(wards.descriptors(), 0);
        }
    }

    #[test]
    fn descriptors_are_those_of_calls_memories_and_listeners() {
        let mut wards = Wards::new();
        active(&mut wards, 1);
        assert_eq!(wards.descriptors(), 4);
        wards.unlisten(1);
        wards.hold(1, key(0), [8, 9]).unwrap();
        assert_eq!(wards.descriptors(), 3, "the same call twice is one");
        wards.release(1, key(0));
        assert_eq!(wards.descriptors(), 1);
        wards.count_unheld(2);
        assert_eq!(wards.figures().unheld, 2);
    }
}
