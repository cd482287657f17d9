use std::sync::atomic::AtomicU32;

use segue_core::names::ReleaseId;

use super::*;
use crate::ledger::tests::{begin, desk, ledger, old};
use crate::ledger::{By, Closed, End, Ledger, Purpose, Ticket};

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("segue-journal-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("calls.journal")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a process that is killed now would leave, by another name so that its lock is not seen.
fn left(ledger: &Ledger, scratch: &Scratch) -> Left {
    ledger.journal_written();
    let copy = scratch.0.join("copy");
    std::fs::copy(scratch.file(), &copy).unwrap();
    let mut left = read(&copy).unwrap();
    left.calls.sort_by(|a, b| a.1.cmp(&b.1));
    left
}

fn live(ledger: &Arc<Ledger>, call: &str) -> Ticket {
    let ticket = begin(ledger, call, Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(2));
    ticket
}

fn hang_up(ticket: Ticket) {
    let closed = Closed {
        by: By::Caller,
        code: Some(1000),
    };
    ticket.finish(End::Closed(closed), Timestamp(3));
}

fn counts(ledger: &Ledger, release: ReleaseId) -> (u64, u64, u64) {
    let report = ledger.snapshot(Timestamp(10));
    let counts = &report[&desk()].releases[&release];
    (counts.live, counts.pinned, counts.totals.lost)
}

#[test]
fn what_was_live_is_lost_and_pinned_and_what_was_pinned_stays_so() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger.journal(&scratch.file()).unwrap();
    hang_up(live(&ledger, "ended"));
    let refused = begin(&ledger, "refused", Purpose::Webhook, 1).unwrap();
    drop(refused);
    let answered = begin(&ledger, "answered", Purpose::Webhook, 1).unwrap();
    answered.finish(End::Answered, Timestamp(4));
    let stays = live(&ledger, "stays");
    let dials = begin(&ledger, "dials", Purpose::Call, 1).unwrap();
    let hook = begin(&ledger, "hook", Purpose::Webhook, 1).unwrap();
    let asked = begin(&ledger, "asked", Purpose::Request, 1).unwrap();
    let left = left(&ledger, &scratch);
    let calls: Vec<(&str, Option<u64>)> = left
        .calls
        .iter()
        .map(|(_, call, record)| (call.as_str(), record.expires.map(|at| at.0)))
        .collect();
    let expected = [
        ("answered", Some(1_004)),
        ("dials", None),
        ("ended", Some(1_003)),
        ("stays", None),
    ];
    assert_eq!(calls, expected);
    let lost: Vec<(&str, bool)> = left
        .lost
        .iter()
        .map(|lost| (lost.identity.call.as_str(), lost.connected.is_some()))
        .collect();
    assert_eq!(lost, [("stays", true), ("dials", false)]);

    let next = crate::ledger::tests::ledger();
    next.recover(left, Timestamp(10));
    assert_eq!(counts(&next, old()), (0, 4, 2));
    let again = begin(&next, "stays", Purpose::Call, 11).unwrap();
    assert!(again.identity().is_resume);
    drop((stays, dials, hook, asked));
}

#[test]
fn a_second_connection_keeps_its_call_and_is_one_loss_with_the_first() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger.journal(&scratch.file()).unwrap();
    let (first, second, third) = (live(&ledger, "a"), live(&ledger, "a"), live(&ledger, "a"));
    hang_up(first);
    let left = left(&ledger, &scratch);
    assert_eq!((left.calls.len(), left.lost.len()), (1, 2));
    let next = crate::ledger::tests::ledger();
    next.recover(left, Timestamp(10));
    assert_eq!(counts(&next, old()), (0, 1, 1));
    drop((second, third));
}

#[test]
fn a_torn_line_and_a_clock_set_back_do_no_harm() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger.journal(&scratch.file()).unwrap();
    hang_up(live(&ledger, "a"));
    ledger.journal_written();
    let torn = br#"{"is":"closed","connec"#;
    let mut file = OpenOptions::new()
        .append(true)
        .open(scratch.file())
        .unwrap();
    file.write_all(torn).unwrap();
    drop(file);
    let mut left = left(&ledger, &scratch);
    assert_eq!((left.calls.len(), left.lost.len()), (1, 0));
    left.calls[0].2.expires = Some(Timestamp(u64::MAX));
    let next = crate::ledger::tests::ledger();
    next.recover(left, Timestamp(10));
    assert_eq!(counts(&next, old()), (0, 1, 0));
    let report = next.snapshot(Timestamp(1_010));
    assert_eq!(report[&desk()].releases[&old()].pinned, 0);
}

#[test]
fn the_owner_of_a_journal_loses_nothing_while_it_lives() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger.journal(&scratch.file()).unwrap();
    let held = live(&ledger, "a");
    ledger.journal_written();
    let left = read(&scratch.file()).unwrap();
    assert_eq!((left.calls.len(), left.lost.len()), (1, 0));
    drop(held);
}

#[test]
fn a_file_grown_too_long_is_replaced_by_what_is_true() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger.journal_bounded(&scratch.file(), 10_000).unwrap();
    let held = live(&ledger, "held");
    for _ in 0..200 {
        hang_up(live(&ledger, "again"));
        ledger.journal_written();
        let bytes = std::fs::metadata(scratch.file()).unwrap().len();
        assert!(bytes < 12_000, "{bytes}");
    }
    let left = left(&ledger, &scratch);
    assert_eq!((left.calls.len(), left.lost.len()), (2, 1));
    drop(held);
}

#[test]
fn another_process_that_replaced_the_file_keeps_it() {
    let scratch = Scratch::new();
    let first = ledger();
    first.journal(&scratch.file()).unwrap();
    first.journal_written();
    let second = ledger();
    second.journal(&scratch.file()).unwrap();
    second.journal_written();
    let held = live(&second, "a");
    first.close_journal();
    assert_eq!(left(&second, &scratch).lost.len(), 1);
    drop(held);
}

#[test]
fn calls_go_on_without_a_disk() {
    let scratch = Scratch::new();
    let ledger = ledger();
    ledger
        .journal(&scratch.0.join("none/calls.journal"))
        .unwrap();
    let held = live(&ledger, "a");
    ledger.journal_written();
    assert_eq!(counts(&ledger, old()), (1, 0, 0));
    hang_up(held);
    ledger.close_journal();
}

#[test]
fn a_disk_that_is_stuck_holds_nobody_up_and_hears_everything_later() {
    let scratch = Scratch::new();
    let ledger = ledger();
    let (journal, mut writer, items) = Journal::make(&scratch.file(), FILE_BYTES_MAX, 4);
    ledger.journal_to(journal);
    // Far more than there is room for, and nobody writes.
    let held: Vec<Ticket> = (0..20).map(|_| live(&ledger, "a")).collect();
    let disk = std::thread::spawn(move || {
        writer.replace(&[]);
        writer.write_all(items);
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while left(&ledger, &scratch).lost.len() < held.len() {
        assert!(Instant::now() < deadline, "everything is written in time");
        // As each report does.
        ledger.snapshot(Timestamp(10));
    }
    drop(held);
    ledger.close_journal();
    let last = read(&scratch.file()).unwrap();
    assert_eq!((last.calls.len(), last.lost.len()), (1, 0));
    disk.join().unwrap();
}
