//! Admission against cutover and drain, over and over, with real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use segue_core::names::CallId;
use segue_core::route::CallFacts;
use segue_core::time::{Millis, Timestamp};
use segue_gateway::ledger::{Asking, By, Closed, End, Ledger, Purpose, Ticket};

use crate::support::table::{desk, release, table};

const RACES: u64 = 10_000;

/// Seeded numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Lets the others go first, in one of several ways.
    fn dawdle(&mut self) {
        match self.below(4) {
            0 => std::thread::yield_now(),
            1 => (0..self.below(200)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

struct Race {
    ledger: Arc<Ledger>,
    /// `install` of the new table has returned.
    installed: AtomicBool,
    /// The report that acknowledges it is taken.
    acknowledged: AtomicBool,
    /// Tickets on the old release, ever.
    granted: AtomicU64,
    /// Tickets on the old release that somebody holds.
    held: AtomicU64,
    /// Of those, the ones that were kept until after the acknowledgement.
    kept: AtomicU64,
}

fn begin(ledger: &Arc<Ledger>, call: &str) -> Ticket {
    let call: CallId = call.parse().unwrap();
    let agent = desk();
    let facts = CallFacts {
        call: &call,
        cohort: None,
        caller: None,
        tenant: None,
        headers: &[],
        pin: None,
        connected: false,
        version_override: None,
    };
    let asking = Asking {
        traceparent: None,
        agent: &agent,
        facts,
        purpose: Purpose::Call,
    };
    ledger.begin(asking, &|_, _| true, Timestamp(1)).unwrap()
}

impl Race {
    fn caller(&self, number: u64, calls: u64, mut random: Random) {
        let mut kept = Vec::new();
        for call in 0..calls {
            random.dawdle();
            let too_late = self.installed.load(Ordering::SeqCst);
            let ticket = begin(&self.ledger, &format!("{number}-{call}"));
            if ticket.identity().release != release("v1") {
                continue;
            }
            assert!(!too_late, "a call began on the old release after install");
            self.granted.fetch_add(1, Ordering::SeqCst);
            self.held.fetch_add(1, Ordering::SeqCst);
            random.dawdle();
            if random.below(3) == 0 {
                kept.push(ticket);
            } else {
                self.end(ticket, &mut random);
            }
        }
        while !self.acknowledged.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        for ticket in kept {
            self.kept.fetch_add(1, Ordering::SeqCst);
            random.dawdle();
            self.end(ticket, &mut random);
        }
    }

    fn end(&self, ticket: Ticket, random: &mut Random) {
        // Before it is uncounted, so that "uncounted" must imply "not held".
        self.held.fetch_sub(1, Ordering::SeqCst);
        match random.below(3) {
            0 => drop(ticket),
            1 => {
                ticket.connected(Timestamp(1));
                drop(ticket);
            }
            _ => {
                ticket.connected(Timestamp(1));
                let closed = Closed {
                    by: By::Caller,
                    code: Some(1000),
                };
                ticket.finish(End::Closed(closed), Timestamp(1));
            }
        }
    }

    fn controller(&self, mut random: Random) {
        for _ in 0..random.below(4) {
            random.dawdle();
        }
        let mut new = table(2, "v2", &workers());
        new.stickiness = Millis(0);
        self.ledger.install(new, Timestamp(1)).unwrap();
        self.installed.store(true, Ordering::SeqCst);
        let report = self.ledger.snapshot(Timestamp(1));
        self.acknowledged.store(true, Ordering::SeqCst);
        let old = report[&desk()].releases.get(&release("v1")).cloned();
        let (live, started) = old.map_or((0, 0), |c| (c.live, c.totals.started));
        // The drain: at zero nobody holds a call of the old release.
        loop {
            let report = self.ledger.snapshot(Timestamp(1));
            let old = report[&desk()].releases.get(&release("v1")).cloned();
            if old.is_none_or(|counts| counts.live + counts.pinned == 0) {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(self.held.load(Ordering::SeqCst), 0, "drained, but held");
        let granted = self.granted.load(Ordering::SeqCst);
        let kept = self.kept.load(Ordering::SeqCst);
        assert_eq!(
            started, granted,
            "a decision was missing at the acknowledgement"
        );
        assert!(
            kept <= live && live <= granted,
            "{kept} <= {live} <= {granted}"
        );
    }
}

fn workers() -> [(&'static str, &'static str, std::net::SocketAddr); 2] {
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    [("w1", "v1", addr), ("w2", "v2", addr)]
}

#[test]
fn no_decision_is_ever_uncounted() {
    for seed in 0..RACES {
        let mut random = Random(seed);
        let mut old = table(1, "v1", &workers());
        old.stickiness = Millis(0);
        let race = Race {
            ledger: Ledger::new(None),
            installed: AtomicBool::new(false),
            acknowledged: AtomicBool::new(false),
            granted: AtomicU64::new(0),
            held: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        };
        race.ledger.install(old, Timestamp(1)).unwrap();
        let raced = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for number in 0..=random.below(3) {
                let (calls, seed) = (1 + random.below(6), random.below(u64::MAX));
                let race = &race;
                threads.push(scope.spawn(move || race.caller(number, calls, Random(seed))));
            }
            let seed = random.below(u64::MAX);
            let race = &race;
            threads.push(scope.spawn(move || race.controller(Random(seed))));
            threads
                .into_iter()
                .try_for_each(std::thread::ScopedJoinHandle::join)
        });
        assert!(raced.is_ok(), "seed {seed}");
    }
}
