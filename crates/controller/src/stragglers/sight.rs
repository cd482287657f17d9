//! Which calls are there, and of which that is not known.
//!
//! A gateway that does not answer holds the calls it held: only its own word, or that of whoever
//! has its name now, takes a call off the list.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::link::CallInfo;
use segue_core::names::{CallId, GatewayId, ReleaseId};

/// One look at the live calls of a release.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Each with the gateways that named it.
    pub(super) calls: BTreeMap<CallId, (CallInfo, BTreeSet<GatewayId>)>,
    /// Gateways that named all of theirs.
    told_all: BTreeSet<GatewayId>,
}

impl Sight {
    /// Reads answers to a question for at most `limit` calls. A gateway that is being replaced has
    /// two lines; all of them must have answered.
    pub(super) fn of(
        answers: Vec<(GatewayId, Option<Vec<CallInfo>>)>,
        release: ReleaseId,
        limit: usize,
    ) -> Self {
        let mut sight = Self::default();
        let mut unknown = BTreeSet::new();
        for (gateway, answer) in answers {
            let whole = answer.as_ref().is_some_and(|calls| calls.len() < limit);
            let whether = if whole {
                &mut sight.told_all
            } else {
                &mut unknown
            };
            whether.insert(gateway.clone());
            let live = |call: &CallInfo| call.release == release && call.state == "live";
            for call in answer.into_iter().flatten().filter(live) {
                let entry = sight.calls.entry(call.call.clone());
                let (_, on) = entry.or_insert_with(|| (call, BTreeSet::new()));
                on.insert(gateway.clone());
            }
        }
        sight.told_all.retain(|gateway| !unknown.contains(gateway));
        sight
    }

    /// Whether a call that was on these gateways is over: all of them say so.
    pub(super) fn is_over(&self, call: &CallId, on: &BTreeSet<GatewayId>) -> bool {
        !self.calls.contains_key(call) && on.iter().all(|gateway| self.told_all.contains(gateway))
    }
}

#[cfg(test)]
mod tests {
    use segue_core::table::Epoch;
    use segue_core::time::Timestamp;

    use super::*;

    fn call(id: &str, state: &str) -> CallInfo {
        CallInfo {
            call: id.parse().unwrap(),
            agent: "desk".parse().unwrap(),
            release: ReleaseId::of(b"v1"),
            worker: "w".parse().unwrap(),
            epoch: Epoch(1),
            since: Timestamp(1),
            state: state.to_owned(),
            reason: "split".to_owned(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    #[test]
    fn silence_ends_no_call() {
        let (a, b): (GatewayId, GatewayId) = ("gw-a".parse().unwrap(), "gw-b".parse().unwrap());
        let (one, other) = ("CA1".parse().unwrap(), "CA2".parse().unwrap());
        let look = |answers| Sight::of(answers, ReleaseId::of(b"v1"), 3);
        let on = |gateway: &GatewayId| BTreeSet::from([gateway.clone()]);
        let sight = look(vec![
            (
                a.clone(),
                Some(vec![call("CA1", "live"), call("CA3", "pinned")]),
            ),
            (b.clone(), None),
        ]);
        assert_eq!(sight.calls.keys().collect::<Vec<_>>(), [&one]);
        assert_eq!(sight.calls[&one].1, on(&a));
        assert!(!sight.is_over(&one, &on(&a)));
        assert!(sight.is_over(&other, &on(&a)));
        assert!(!sight.is_over(&other, &on(&b)), "it did not answer");
        // One that is away altogether.
        assert!(!look(vec![(a.clone(), Some(Vec::new()))]).is_over(&other, &on(&b)));
        // Of two lines with one name both must answer.
        let halves = look(vec![(b.clone(), None), (b.clone(), Some(Vec::new()))]);
        assert!(!halves.is_over(&other, &on(&b)));
        // A list that is cut off says nothing about who is not on it.
        let full = ["CA3", "CA4", "CA5"].map(|id| call(id, "live")).to_vec();
        let full = look(vec![(b.clone(), Some(full))]);
        assert_eq!(full.calls.len(), 3);
        assert!(!full.is_over(&other, &on(&b)));
        let of_other = Sight::of(
            vec![(a, Some(vec![call("CA1", "live")]))],
            ReleaseId::of(b"v2"),
            3,
        );
        assert!(of_other.calls.is_empty());
    }
}
