//! The journal: nothing half, nothing twice, nothing lost.

use std::fs;

use segue_controller::store::{Head, Journal as _, SqliteJournal, StoreError};
use segue_core::audit::{Entry, verify};
use segue_core::time::Timestamp;
use serde_json::json;

use crate::{Directory, desk, helper};

/// Entries that follow a head.
pub(crate) fn entries(head: &Head, count: u64) -> Vec<Entry> {
    let mut head = head.clone();
    let next = |_| {
        let prev = (head.seq, head.hash.as_str());
        let inputs = json!({ "similarity": 0.1 + 0.2, "text": "ü\u{0}" });
        let fact = json!({ "fact": "resumed", "at": head.seq });
        let at = Timestamp(head.seq);
        let entry = Entry::after(prev, at, desk(), "segue".to_owned(), fact, inputs);
        head = Head::of(&entry);
        entry
    };
    (0..count).map(next).collect()
}

fn all(journal: &SqliteJournal) -> Vec<Entry> {
    let mut all = Vec::new();
    journal.load_all(&mut |entry| all.push(entry)).unwrap();
    all
}

#[test]
fn what_is_written_is_read_again() {
    let directory = Directory::new();
    let path = directory.state().journal();
    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.head().unwrap(), Head::default());
    let written = entries(&Head::default(), 2_500);
    journal.append(0, &written).unwrap();
    drop(journal);
    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(all(&journal), written);
    assert_eq!(verify(&written).unwrap().0, 2_500);
    assert_eq!(
        journal.read(2_490, 3, Some(&desk())).unwrap(),
        written[2_490..2_493]
    );
    assert!(
        journal
            .read(0, 3, Some(&"other".parse().unwrap()))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn of_two_writers_one_is_told() {
    let directory = Directory::new();
    let path = directory.state().journal();
    let (one, other) = (
        SqliteJournal::open(&path).unwrap(),
        SqliteJournal::open(&path).unwrap(),
    );
    one.append(0, &entries(&Head::default(), 2)).unwrap();
    let late = other.append(0, &entries(&Head::default(), 1));
    assert!(
        matches!(late, Err(StoreError::Conflict { expected: 0, is: 2 })),
        "{late:?}"
    );
    other
        .append(2, &entries(&other.head().unwrap(), 1))
        .unwrap();
    assert_eq!(verify(&all(&one)).unwrap().0, 3);
}

#[test]
fn a_killed_writer_leaves_every_append_whole() {
    let directory = Directory::new();
    for round in 1..=5 {
        let mut child = helper::play("appender", &directory, &[]);
        helper::hear(&mut child, "appended");
        helper::hear(&mut child, "appended");
        child.kill().unwrap();
        child.wait().unwrap();
        let journal = SqliteJournal::open(&directory.state().journal()).unwrap();
        let (count, head) = verify(&all(&journal)).unwrap();
        assert!(
            count >= round * 6 && count.is_multiple_of(3),
            "{count} entries"
        );
        assert_eq!(
            journal.head().unwrap(),
            Head {
                seq: count,
                hash: head
            }
        );
    }
}

#[test]
fn a_lock_from_outside_is_named_and_passes() {
    let directory = Directory::new();
    let journal = SqliteJournal::open(&directory.state().journal()).unwrap();
    let mut locker = helper::play("locker", &directory, &[]);
    helper::hear(&mut locker, "locked");
    let first = entries(&Head::default(), 1);
    let locked = journal.append(0, &first).unwrap_err();
    assert_eq!(
        locked.to_string(),
        "the journal is locked by another program"
    );
    assert_eq!(
        journal.head().unwrap(),
        Head::default(),
        "it can still be read"
    );
    locker.kill().unwrap();
    locker.wait().unwrap();
    journal.append(0, &first).unwrap();
}

#[test]
fn a_journal_that_was_moved_away_takes_nothing() {
    let directory = Directory::new();
    let path = directory.state().journal();
    let journal = SqliteJournal::open(&path).unwrap();
    let first = entries(&Head::default(), 1);
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let gone = journal.append(0, &first).unwrap_err();
    assert!(matches!(gone, StoreError::Unavailable { .. }), "{gone:?}");
    fs::create_dir(&path).unwrap();
    let is_directory = journal.append(0, &first).unwrap_err();
    assert!(
        is_directory.to_string().contains("is not a file"),
        "{is_directory}"
    );
    assert!(SqliteJournal::open(&path).is_err());
    fs::remove_dir(&path).unwrap();
    fs::rename(&away, &path).unwrap();
    journal.append(0, &first).unwrap();
}

#[test]
fn a_newer_journal_is_left_alone() {
    let directory = Directory::new();
    let path = directory.state().journal();
    drop(SqliteJournal::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("UPDATE meta SET value = 99", [])
        .unwrap();
    drop(connection);
    let error = SqliteJournal::open(&path).unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { version: 99, .. }),
        "{error:?}"
    );
}
