use std::collections::BTreeMap;
use std::net::SocketAddr;

use segue_core::names::{CallId, ReleaseId};
use segue_core::route::{CallFacts, Reason, Refusal};
use segue_core::spec::{Ingress, OnRollback};
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, WorkerRoute};
use segue_core::time::Millis;

use super::*;

const STICKINESS: Millis = Millis(1_000);

pub(crate) fn old() -> ReleaseId {
    ReleaseId::of(b"old")
}

pub(crate) fn new() -> ReleaseId {
    ReleaseId::of(b"new")
}

pub(crate) fn desk() -> AgentName {
    "desk".parse().unwrap()
}

pub(crate) fn table(epoch: u64, serving: ReleaseId) -> RoutingTable {
    let worker = |release, port| WorkerRoute {
        release,
        addr: SocketAddr::from(([127, 0, 0, 1], port)),
        capacity: 2,
        health_path: None,
        barred: false,
    };
    let route = |label: &str, id| ReleaseRoute {
        label: label.parse().unwrap(),
        takes_new_calls: id == serving,
        retiring: false,
    };
    RoutingTable {
        agent: desk(),
        epoch: Epoch(epoch),
        salt: "salt".to_owned(),
        split: Split::all(serving),
        releases: BTreeMap::from([(old(), route("v1", old())), (new(), route("v2", new()))]),
        workers: BTreeMap::from([
            ("old-1".parse().unwrap(), worker(old(), 1)),
            ("old-2".parse().unwrap(), worker(old(), 2)),
            ("new-1".parse().unwrap(), worker(new(), 3)),
        ]),
        ingress: Ingress::default(),
        stickiness: STICKINESS,
        on_rollback: OnRollback::Stay,
        rolled_back: std::collections::BTreeSet::new(),
        handed_off: std::collections::BTreeSet::new(),
        rescue: None,
        override_digest: None,
    }
}

/// Whoever takes no new calls winds down.
pub(crate) fn retiring(mut table: RoutingTable) -> RoutingTable {
    for route in table.releases.values_mut() {
        route.retiring = !route.takes_new_calls;
    }
    table
}

pub(crate) fn begin(
    ledger: &Arc<Ledger>,
    call: &str,
    purpose: Purpose,
    now: u64,
) -> Result<Ticket, Refused> {
    begin_by(ledger, call, purpose, None, now)
}

fn begin_by(
    ledger: &Arc<Ledger>,
    call: &str,
    purpose: Purpose,
    version_override: Option<&str>,
    now: u64,
) -> Result<Ticket, Refused> {
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
        version_override,
    };
    let asking = Asking {
        traceparent: None,
        agent: &agent,
        facts,
        purpose,
    };
    ledger.begin(asking, &|_, _| true, Timestamp(now))
}

fn counts(ledger: &Ledger, release: ReleaseId, now: u64) -> (u64, u64) {
    let report = ledger.snapshot(Timestamp(now));
    let admission = ledger.locked();
    assert_eq!(report[&desk()], admission.books[&desk()].recount());
    let counts = report[&desk()].releases.get(&release);
    counts.map_or((0, 0), |counts| (counts.live, counts.pinned))
}

fn totals(ledger: &Ledger, release: ReleaseId) -> (u64, u64, u64, u64) {
    let report = ledger.snapshot(Timestamp(0));
    let counts = report[&desk()].releases.get(&release);
    let totals = counts.map(|counts| counts.totals.clone());
    totals.map_or((0, 0, 0, 0), |t| (t.started, t.ended, t.dropped, t.errors))
}

fn closed(by: By, code: Option<u16>) -> End {
    End::Closed(Closed { by, code })
}

pub(crate) fn ledger() -> Arc<Ledger> {
    let ledger = Ledger::new(None);
    ledger.install(table(1, old()), Timestamp(0)).unwrap();
    ledger
}

#[test]
fn a_call_keeps_its_release_over_reconnects_until_its_pin_runs_out() {
    let ledger = ledger();
    let first = begin(&ledger, "a", Purpose::Call, 10).unwrap();
    assert_eq!(counts(&ledger, old(), 10), (1, 0));
    first.connected(Timestamp(11));
    let worker = first.worker().clone();
    ledger.install(table(2, new()), Timestamp(12)).unwrap();
    first.finish(closed(By::Caller, None), Timestamp(100));
    assert_eq!(counts(&ledger, old(), 100), (0, 1));

    let again = begin(&ledger, "a", Purpose::Call, 1_099).unwrap();
    assert_eq!(again.identity().release, old());
    assert_eq!(again.identity().reason, Reason::Pin);
    assert!(again.identity().is_resume);
    assert_eq!(*again.worker(), worker);
    assert_eq!(totals(&ledger, old()), (1, 1, 0, 0), "no second start");
    again.connected(Timestamp(1_100));
    again.finish(closed(By::Worker, Some(1012)), Timestamp(1_200));
    assert_eq!(totals(&ledger, old()), (1, 2, 1, 0));

    assert_eq!(counts(&ledger, old(), 2_199), (0, 1));
    assert_eq!(counts(&ledger, old(), 2_200), (0, 0));
    let late = begin(&ledger, "a", Purpose::Call, 2_200).unwrap();
    assert_eq!(late.identity().release, new());
}

#[test]
fn several_connections_of_a_call_are_one_call() {
    let ledger = ledger();
    let one = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    let two = begin(&ledger, "a", Purpose::Call, 2).unwrap();
    one.connected(Timestamp(2));
    two.connected(Timestamp(2));
    assert_eq!(one.worker(), two.worker());
    assert_eq!(counts(&ledger, old(), 2), (1, 0));
    one.finish(closed(By::Worker, Some(1000)), Timestamp(3));
    assert_eq!(counts(&ledger, old(), 3), (1, 0));
    assert_eq!(totals(&ledger, old()), (1, 0, 0, 0));
    two.finish(closed(By::Worker, Some(1000)), Timestamp(4));
    assert_eq!(counts(&ledger, old(), 4), (0, 1));
    assert_eq!(totals(&ledger, old()), (1, 1, 0, 0));
}

#[test]
fn a_webhook_pins_only_once_it_is_answered() {
    let ledger = ledger();
    let lost = begin(&ledger, "a", Purpose::Webhook, 1).unwrap();
    assert_eq!(counts(&ledger, old(), 1), (1, 0));
    lost.finish(End::Unreached(Unreached::Dial), Timestamp(2));
    assert_eq!(counts(&ledger, old(), 2), (0, 0));

    let answered = begin(&ledger, "a", Purpose::Webhook, 3).unwrap();
    answered.finish(End::Answered, Timestamp(4));
    assert_eq!(counts(&ledger, old(), 4), (0, 1));
    ledger.install(table(2, new()), Timestamp(5)).unwrap();
    let call = begin(&ledger, "a", Purpose::Call, 6).unwrap();
    assert_eq!(call.identity().release, old());
    assert!(!call.identity().is_resume, "it was never connected");
    assert_eq!(totals(&ledger, old()), (1, 0, 0, 0));

    let plain = begin(&ledger, "b", Purpose::Request, 7).unwrap();
    assert_eq!(counts(&ledger, new(), 7), (1, 0));
    plain.finish(End::Answered, Timestamp(8));
    assert_eq!(counts(&ledger, new(), 8), (0, 0));
    assert_eq!(totals(&ledger, new()), (0, 0, 0, 0));
}

#[test]
fn a_dropped_ticket_is_uncounted_and_blames_no_worker() {
    let ledger = ledger();
    drop(begin(&ledger, "a", Purpose::Call, 1).unwrap());
    assert_eq!(counts(&ledger, old(), 1), (0, 0));
    let live = begin(&ledger, "b", Purpose::Call, 1).unwrap();
    live.connected(Timestamp(2));
    drop(live);
    assert_eq!(counts(&ledger, old(), 2), (0, 1));
    assert_eq!(totals(&ledger, old()), (2, 1, 0, 0));
    let report = ledger.snapshot(Timestamp(2));
    let closes = &report[&desk()].releases[&old()].totals.closes;
    assert_eq!(closes["gateway:none"], 1);
}

#[test]
fn a_call_that_never_got_through_is_an_error_and_leaves_no_pin() {
    let ledger = ledger();
    let call = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    call.finish(End::Unreached(Unreached::Status(503)), Timestamp(2));
    assert_eq!(totals(&ledger, old()), (1, 0, 0, 1));
    let left = begin(&ledger, "a", Purpose::Call, 3).unwrap();
    left.finish(End::Unreached(Unreached::CallerLeft), Timestamp(4));
    for status in [200, 401, 403, 404, 429] {
        let refused = begin(&ledger, "a", Purpose::Call, 4).unwrap();
        refused.finish(End::Unreached(Unreached::Status(status)), Timestamp(4));
    }
    assert_eq!(
        totals(&ledger, old()),
        (7, 0, 0, 1),
        "callers can ask for those"
    );
    assert_eq!(counts(&ledger, old(), 4), (0, 0));
}

#[test]
fn a_retry_moves_the_count_within_the_release() {
    let ledger = ledger();
    let mut call = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    let first = call.worker().clone();
    call.retry(std::slice::from_ref(&first), &|_, _| true, Timestamp(2))
        .unwrap();
    let second = call.worker().clone();
    assert_ne!(first, second);
    assert_eq!(call.identity().release, old());
    let workers = ledger.snapshot(Timestamp(2))[&desk()].workers.clone();
    assert_eq!(workers, BTreeMap::from([(second.clone(), 1)]));
    let none_left = call.retry(&[first, second], &|_, _| true, Timestamp(3));
    assert_eq!(none_left, Err(Refused::Route(Refusal::NoWorker)));
    assert_eq!(counts(&ledger, old(), 3), (1, 0));
}

#[test]
fn capacity_and_overrides() {
    let ledger = ledger();
    let held: Vec<Ticket> = (0..4)
        .map(|n| begin(&ledger, &n.to_string(), Purpose::Call, 1).unwrap())
        .collect();
    let full = begin(&ledger, "x", Purpose::Call, 1).unwrap_err();
    assert_eq!(full, Refused::Route(Refusal::Full));
    assert_eq!(totals(&ledger, old()), (5, 0, 0, 0), "nobody's fault");
    assert_eq!(ledger.refusals()["full"], 1);

    let smoke = begin_by(&ledger, "s", Purpose::Call, Some("v2"), 1).unwrap();
    assert!(smoke.identity().is_override);
    smoke.connected(Timestamp(1));
    smoke.finish(closed(By::Worker, None), Timestamp(2));
    assert_eq!(totals(&ledger, new()), (0, 0, 0, 0));
    let resumed = begin(&ledger, "s", Purpose::Call, 3).unwrap();
    assert!(resumed.identity().is_override, "also when it reconnects");
    drop(held);
    assert_eq!(counts(&ledger, old(), 3), (0, 0));
}

#[test]
fn a_smaller_or_equal_epoch_is_refused() {
    let ledger = ledger();
    ledger.install(table(5, new()), Timestamp(1)).unwrap();
    for epoch in [4, 5] {
        let stale = ledger.install(table(epoch, old()), Timestamp(2));
        assert_eq!(stale.unwrap_err().installed, Epoch(5));
    }
    let call = begin(&ledger, "a", Purpose::Call, 3).unwrap();
    assert_eq!(call.identity().release, new());
}

#[test]
fn a_withdrawn_agent_is_dropped_once_it_is_empty() {
    let ledger = ledger();
    let call = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    ledger.keep_agents(&[], Timestamp(2));
    assert!(begin(&ledger, "b", Purpose::Call, 3).is_err());
    assert!(
        begin(&ledger, "a", Purpose::Call, 3).is_ok(),
        "its own go on"
    );
    drop(call);
    ledger.keep_agents(&[], Timestamp(4));
    assert!(ledger.tables().is_empty());
    let refused = begin(&ledger, "b", Purpose::Call, 5).unwrap_err();
    assert_eq!(refused, Refused::NoTable);
}

#[test]
fn what_moves_to_the_next_process_counts_the_same() {
    let before = ledger();
    let live = begin(&before, "a", Purpose::Call, 1).unwrap();
    live.connected(Timestamp(2));
    let hook = begin(&before, "b", Purpose::Webhook, 3).unwrap();
    hook.finish(End::Answered, Timestamp(4));
    let state = serde_json::to_string(&before.export(Timestamp(5))).unwrap();
    let moved = serde_json::to_string(&live.describe()).unwrap();

    let after = Ledger::new(None);
    after.restore(serde_json::from_str(&state).unwrap(), Timestamp(6));
    let adopted = after.adopt(serde_json::from_str(&moved).unwrap(), Timestamp(6));
    let adopted = adopted.unwrap();
    assert_eq!(after.snapshot(Timestamp(6)), before.snapshot(Timestamp(6)));
    live.given();
    before.handed_over(0);
    assert_eq!(counts(&before, old(), 6), (0, 0));
    assert_eq!(totals(&before, old()), (0, 0, 0, 0));
    adopted.finish(closed(By::Caller, Some(1000)), Timestamp(7));
    assert_eq!(counts(&after, old(), 7), (0, 2));
    assert_eq!(totals(&after, old()), (1, 1, 0, 0));
}

#[test]
fn past_its_bounds_it_refuses_and_says_so() {
    let ledger = Ledger::bounded(None, 2, 3);
    ledger.install(table(1, old()), Timestamp(0)).unwrap();
    let held = [
        begin(&ledger, "a", Purpose::Call, 1).unwrap(),
        begin(&ledger, "b", Purpose::Call, 1).unwrap(),
    ];
    let refused = begin(&ledger, "c", Purpose::Call, 1).unwrap_err();
    assert_eq!(refused, Refused::TooManyCalls);
    drop(held);
    for call in ["a", "b", "c"] {
        let hook = begin(&ledger, call, Purpose::Webhook, 2).unwrap();
        hook.finish(End::Answered, Timestamp(2));
    }
    let refused = begin(&ledger, "d", Purpose::Call, 3).unwrap_err();
    assert_eq!(refused, Refused::TooManyPins);
    assert!(
        begin(&ledger, "a", Purpose::Call, 3).is_ok(),
        "it has its place"
    );
    let refusals = ledger.refusals();
    assert_eq!(
        (refusals["too_many_calls"], refusals["too_many_pins"]),
        (1, 1)
    );
    let later = 2 + STICKINESS.0;
    assert!(
        begin(&ledger, "d", Purpose::Call, later).is_ok(),
        "pins ran out"
    );
    ledger.stop();
    let refused = begin(&ledger, "e", Purpose::Call, later).unwrap_err();
    assert_eq!(refused, Refused::Stopping);
    ledger.resume();
    assert!(begin(&ledger, "e", Purpose::Call, later).is_ok());
}

#[test]
fn a_call_that_is_being_ended_by_policy_comes_back_elsewhere_at_once() {
    let ledger = ledger();
    let end_of = |release| ledger.end_calls(&desk(), (release, Epoch(2)), &["a".parse().unwrap()]);
    let end = || end_of(old());
    let by_policy = End::Closed(Closed::BY_POLICY);
    assert_eq!(end(), 0, "nothing there");
    let one = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    let two = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    one.connected(Timestamp(2));
    two.connected(Timestamp(2));
    let other = begin(&ledger, "b", Purpose::Call, 2).unwrap();
    let webhook = begin(&ledger, "a", Purpose::Webhook, 2).unwrap();
    ledger
        .install(retiring(table(2, new())), Timestamp(3))
        .unwrap();
    assert_eq!(end_of(new()), 0);
    assert_eq!((end(), end()), (2, 0));
    assert!(one.counters().is_to_end() && two.counters().is_to_end());
    assert!(!other.counters().is_to_end() && !webhook.counters().is_to_end());

    // Both connections still stand, and their caller is back already.
    let back = begin(&ledger, "a", Purpose::Call, 4).unwrap();
    assert_eq!(back.identity().release, new());
    assert_eq!(back.identity().reason, Reason::Split);
    assert!(back.identity().is_resume);
    back.connected(Timestamp(5));
    webhook.finish(End::Answered, Timestamp(5));
    one.finish(by_policy, Timestamp(6));
    assert_eq!(counts(&ledger, old(), 6), (2, 0), "two calls still");
    two.finish(by_policy, Timestamp(7));
    assert_eq!(counts(&ledger, old(), 7), (1, 0));
    assert_eq!(
        totals(&ledger, old()),
        (2, 0, 0, 0),
        "not ended but retired"
    );
    let report = ledger.snapshot(Timestamp(7));
    assert_eq!(report[&desk()].releases[&old()].totals.policy, 1);
    let told = ledger.take_ended().records;
    assert_eq!(told.len(), 1, "two connections, one end");

    // Its new place is kept as any call's.
    back.finish(closed(By::Caller, Some(1000)), Timestamp(8));
    assert_eq!(counts(&ledger, new(), 8), (0, 1));
    assert_eq!(counts(&ledger, old(), 8), (1, 0));
    let again = begin(&ledger, "a", Purpose::Call, 9).unwrap();
    assert_eq!(again.identity().reason, Reason::Pin);
}

/// The word may come late, behind the table of a rollback.
#[test]
fn calls_are_ended_only_while_their_release_winds_down() {
    let ledger = ledger();
    let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(2));
    let end = |epoch| ledger.end_calls(&desk(), (old(), Epoch(epoch)), &["a".parse().unwrap()]);
    assert_eq!(end(0), 0, "it is current");
    ledger
        .install(retiring(table(2, new())), Timestamp(3))
        .unwrap();
    assert_eq!(end(3), 0, "of a table that is not here yet");
    ledger.install(table(4, old()), Timestamp(4)).unwrap();
    assert_eq!(end(2), 0, "it is current again");
    let mut gone = retiring(table(5, new()));
    gone.releases.remove(&old());
    ledger.install(gone, Timestamp(5)).unwrap();
    assert_eq!(end(2), 0, "it is withdrawn");
    assert!(!ticket.counters().is_to_end());
    ledger
        .install(retiring(table(6, new())), Timestamp(6))
        .unwrap();
    assert_eq!(end(6), 1);
    assert!(ticket.counters().is_to_end());
}

#[test]
fn a_call_that_was_ended_by_policy_leaves_no_pin_whoever_closed_it_first() {
    for end in [End::Closed(Closed::BY_POLICY), closed(By::Caller, None)] {
        let ledger = ledger();
        let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
        ticket.connected(Timestamp(2));
        let winds_down = retiring(table(2, new()));
        ledger.install(winds_down, Timestamp(2)).unwrap();
        ledger.end_calls(&desk(), (old(), Epoch(2)), &["a".parse().unwrap()]);
        ticket.finish(end, Timestamp(3));
        assert_eq!(counts(&ledger, old(), 3), (0, 0), "{end:?}");
    }
}

#[test]
fn a_handed_off_release_keeps_a_call_while_one_connection_of_it_stands() {
    let ledger = ledger();
    let one = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    one.connected(Timestamp(1));
    let mut handed_off = table(2, new());
    handed_off.handed_off.insert(old());
    ledger.install(handed_off, Timestamp(2)).unwrap();
    let two = begin(&ledger, "a", Purpose::Call, 3).unwrap();
    assert_eq!(two.identity().reason, Reason::Pin);
    one.finish(closed(By::Caller, None), Timestamp(4));
    let three = begin(&ledger, "a", Purpose::Call, 5).unwrap();
    assert_eq!(three.identity().release, old(), "the second one stands");
    drop((two, three));
    let moved = begin(&ledger, "a", Purpose::Call, 6).unwrap();
    assert_eq!(moved.identity().release, new());
    assert!(moved.identity().is_resume);
}

/// A process that has nothing left says its last words and is gone.
#[test]
fn an_end_is_told_before_the_call_is_uncounted() {
    let ledger = ledger();
    for round in 0..300 {
        let ticket = begin(&ledger, &format!("a-{round}"), Purpose::Call, 1).unwrap();
        ticket.connected(Timestamp(2));
        let open = ledger.open();
        let ends = std::thread::spawn(move || {
            ticket.finish(closed(By::Caller, Some(1000)), Timestamp(3));
        });
        while *open.borrow() > 0 {
            std::hint::spin_loop();
        }
        assert_eq!(ledger.take_ended().records.len(), 1, "round {round}");
        ends.join().unwrap();
    }
}
