use super::*;

/// A clean story: both releases proven, one call before the switch to v2 and one after it.
fn clean() -> Logs {
    let mut logs = Logs::default();
    for (t, release) in [(1, "v1"), (150, "v2")] {
        proven(&mut logs, t, release);
    }
    logs.operator.push(switch(200, "cutover", "v1", "v2"));
    call(&mut logs, "c1", 100, "v1");
    call(&mut logs, "c2", 300, "v2");
    logs
}

/// A smoke call that heard every answer, and what was concluded from it.
fn proven(logs: &mut Logs, t: u64, release: &str) {
    let id = format!("smoke-{release}");
    logs.workers.push(started(&id, t, release));
    logs.smoke.push(format!(
        r#"{{"t":{t},"event":"call.ended","call":"{id}","by":"caller","code":1000,"turns":2,"turns_heard":2}}"#
    ));
    let passed = format!(r#"{{"t":{t},"event":"smoke.passed","release":"{release}"}}"#);
    logs.smoke.push(passed);
}

fn switch(t: u64, what: &str, from: &str, to: &str) -> String {
    format!(r#"{{"t":{t},"event":"{what}.acked","agent":"a","to":"{to}","from":"{from}"}}"#)
}

/// A call that was dialled at `t` and went well on `release`.
fn call(logs: &mut Logs, id: &str, t: u64, release: &str) {
    for rest in [
        r#""event":"call.dialled""#,
        r#""event":"call.connected""#,
        r#""event":"call.ended","by":"caller","code":1000,"turns":2,"turns_heard":2,"longest_gap_ms":9"#,
    ] {
        logs.callers
            .push(format!(r#"{{"t":{t},"call":"{id}",{rest}}}"#));
    }
    logs.workers.push(started(id, t + 1, release));
    let ended = r#""worker":"w","by":"caller","code":1000"#;
    logs.workers.push(format!(
        r#"{{"t":{t},"event":"call.ended","call":"{id}","release":"{release}",{ended}}}"#
    ));
}

fn started(id: &str, t: u64, release: &str) -> String {
    let rest = r#""worker":"w","pid":1"#;
    format!(r#"{{"t":{t},"event":"call.started","call":"{id}","release":"{release}",{rest}}}"#)
}

/// Rewrites each line with `from`, and fails if there is none.
fn rewrite(lines: &mut [String], from: &str, to: &str) {
    assert!(lines.iter().any(|line| line.contains(from)), "{from}");
    for line in lines {
        *line = line.replace(from, to);
    }
}

fn remove(lines: &mut Vec<String>, parts: [&str; 2]) {
    let before = lines.len();
    lines.retain(|line| !parts.iter().all(|part| line.contains(part)));
    assert_ne!(lines.len(), before, "{parts:?}");
}

/// Spoils the clean story and checks that `count` of the verdict is one, with `words`.
fn check(spoil: impl Fn(&mut Logs), count: impl Fn(&Verdict) -> u64, words: &str) {
    let mut logs = clean();
    assert_eq!(count(&judge(&logs)), 0);
    spoil(&mut logs);
    let verdict = judge(&logs);
    assert_eq!(count(&verdict), 1, "{verdict:?}");
    assert!(
        verdict
            .problems
            .iter()
            .any(|problem| problem.contains(words)),
        "{verdict:?}"
    );
    assert!(!verdict.is_clean());
}

#[test]
fn a_clean_story_is_clean() {
    let verdict = judge(&clean());
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(
        (verdict.started, verdict.completed, verdict.dropped),
        (2, 2, 0)
    );
    assert_eq!(
        verdict.by_release,
        BTreeMap::from([("v1".into(), 1), ("v2".into(), 1)])
    );
}

#[test]
fn no_calls_prove_nothing() {
    assert!(!judge(&Logs::default()).is_clean());
}

#[test]
fn a_call_ended_by_the_far_end_was_dropped() {
    let spoil = |logs: &mut Logs| {
        let last = logs.callers.len() - 1;
        let from = r#""by":"caller","code":1000"#;
        rewrite(
            &mut logs.callers[last..],
            from,
            r#""by":"remote","code":1012"#,
        );
    };
    check(spoil, |v| v.dropped, "c2: ended by remote, code 1012");
}

#[test]
fn a_call_without_an_end_was_dropped_unless_the_worker_clears_it() {
    let unsaid = |logs: &mut Logs| remove(&mut logs.callers, ["c2", "call.ended"]);
    check(
        unsaid,
        |v| v.undecided,
        "c2: ended by the caller, who does not say so",
    );
    let by_worker = |logs: &mut Logs| {
        unsaid(logs);
        let last = logs.workers.len() - 1;
        rewrite(
            &mut logs.workers[last..],
            r#""by":"caller""#,
            r#""by":"error""#,
        );
    };
    check(
        by_worker,
        |v| v.dropped,
        "c2: ended by error, as the worker says",
    );
    let nowhere = |logs: &mut Logs| {
        unsaid(logs);
        remove(&mut logs.workers, ["c2", "call.ended"]);
    };
    check(nowhere, |v| v.dropped, "c2: no log says that it ended");
}

#[test]
fn a_call_turned_away_is_refused_and_not_dropped() {
    let refused = |logs: &mut Logs| {
        logs.callers
            .push(r#"{"t":5,"event":"call.dialled","call":"c3"}"#.into());
        logs.callers
            .push(r#"{"t":5,"event":"call.refused","call":"c3","status":503}"#.into());
    };
    check(refused, |v| v.refused, "c3: refused with status 503");
    let mut logs = clean();
    refused(&mut logs);
    assert_eq!((judge(&logs).started, judge(&logs).dropped), (2, 0));
    let unanswered = |logs: &mut Logs| {
        logs.callers
            .push(r#"{"t":5,"event":"call.dialled","call":"c3"}"#.into());
    };
    check(
        unanswered,
        |v| v.unanswered,
        "c3: dialled, and then nothing",
    );
}

#[test]
fn a_call_after_the_switch_belongs_to_the_new_release() {
    let wrong = |v: &Verdict| v.wrong_release_after_cutover;
    let late = |logs: &mut Logs| call(logs, "c3", 201, "v1");
    check(
        late,
        wrong,
        "c3: dialled 1 ms after the switch to v2, answered by v1",
    );
    let rolled_back = |logs: &mut Logs| {
        logs.operator.push(switch(400, "rollback", "v2", "v1"));
        call(logs, "c3", 401, "v2");
        call(logs, "c4", 401, "v1");
    };
    check(
        rolled_back,
        wrong,
        "c3: dialled 1 ms after the switch to v1, answered by v2",
    );
    let mut logs = clean();
    call(&mut logs, "c3", 200, "v1");
    assert!(
        judge(&logs).is_clean(),
        "at the moment of the switch, either will do"
    );
}

#[test]
fn a_release_stays_left_until_it_is_switched_back_to() {
    let three = |logs: &mut Logs| {
        proven(logs, 350, "v3");
        logs.operator.push(switch(400, "cutover", "v2", "v3"));
        call(logs, "c3", 410, "v3");
    };
    let late = |logs: &mut Logs| {
        three(logs);
        call(logs, "c4", 450, "v1");
    };
    check(
        late,
        |v| v.wrong_release_after_cutover,
        "c4: dialled 250 ms after the switch to v2, answered by v1",
    );
    let mut logs = clean();
    three(&mut logs);
    logs.operator.push(switch(500, "rollback", "v3", "v2"));
    logs.operator.push(switch(600, "rollback", "v2", "v1"));
    call(&mut logs, "c4", 550, "v2");
    call(&mut logs, "c5", 650, "v1");
    let verdict = judge(&logs);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn a_call_must_not_reach_an_unproven_release() {
    let unproven = |v: &Verdict| v.reached_unproven;
    let words = "c3: reached v2 before it had passed its smoke test";
    check(|logs| call(logs, "c3", 140, "v2"), unproven, words);
    let never = |logs: &mut Logs| call(logs, "c3", 300, "v3");
    check(never, unproven, "c3: reached v3 before");
}

/// Whoever deploys may say that a release has passed; the calls must bear it out.
#[test]
fn a_claim_proves_nothing() {
    let claimed = |logs: &mut Logs| {
        logs.smoke
            .push(r#"{"t":350,"event":"smoke.passed","release":"v3"}"#.into());
        call(logs, "c3", 400, "v3");
    };
    let words = "v3: no smoke call heard what would prove it";
    check(claimed, |v| v.reached_unproven, words);
}

#[test]
fn smoke_calls_are_not_customers() {
    let mut logs = clean();
    logs.smoke
        .push(r#"{"t":140,"event":"call.dialled","call":"s1"}"#.into());
    logs.smoke
        .push(r#"{"t":140,"event":"call.connected","call":"s1"}"#.into());
    logs.workers.push(started("s1", 140, "v2"));
    let verdict = judge(&logs);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(verdict.started, 2);
}

#[test]
fn a_call_stays_where_it_started() {
    let moved = |logs: &mut Logs| logs.workers.push(started("c1", 160, "v2"));
    check(moved, |v| v.moved, "c1: answered by releases v1 and v2");
    let again = |logs: &mut Logs| logs.workers.push(started("c1", 160, "v1"));
    check(again, |v| v.problems_found, "c1: answered 2 times");
}

#[test]
fn a_connected_call_is_known_to_a_worker() {
    let lost = |logs: &mut Logs| logs.workers.retain(|line| !line.contains("c2"));
    check(
        lost,
        |v| v.unaccounted,
        "c2: connected, and no worker knows it",
    );
}

#[test]
fn lines_that_cannot_be_read_are_told() {
    let torn = |logs: &mut Logs| logs.workers.push(r#"{"t":5,"event":"call.st"#.into());
    check(torn, |v| v.malformed, "workers: cannot read");
    let mixed = |logs: &mut Logs| {
        logs.operator
            .push(switch(1, "cutover", "v0", "v1").replace(r#""a""#, r#""b""#));
    };
    check(mixed, |v| v.problems_found, "several agents (a, b)");
}

#[test]
fn problems_are_capped_and_counted() {
    let mut logs = clean();
    logs.callers.extend((0..80).map(|n| format!("torn {n}")));
    let verdict = judge(&logs);
    assert_eq!(
        (verdict.problems.len(), verdict.problems_found),
        (PROBLEMS_MAX, 80)
    );
}
