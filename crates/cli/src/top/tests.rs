//! The screen, frame by frame and key by key.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::draw::frame_as_text;
use super::keys::{Do, press};
use super::state::{Event, News, State};

fn release(label: &str, id: &str, state: &str, share: u16, live: u64) -> serde_json::Value {
    json!({
        "id": id.repeat(64), "label": label, "slot": null, "state": state,
        "share_bp": share, "live_share_bp": share, "live": live, "pinned": 0, "unknown": [],
        "workers_ready": 2, "workers_want": 2, "capacity": 100, "started": 0, "ended": 7,
        "dropped": 0, "errors": 0, "closes": {}, "workers": [],
    })
}

/// v1 at 90 %, v2 at 10 % in the first of two steps; or what `phase` says.
fn news(phase: &str, paused: bool, v1: &str, v2: &str) -> News {
    let status = json!({
        "version": "0", "at": 100_000,
        "agents": [
            {
                "name": "desk", "revision": 12, "epoch": 4, "phase": phase,
                "holds": ["3 of 20 calls ended in this step"], "live": 23,
                "releases": [release("v1", "1", v1, 9_000, 20), release("v2", "2", v2, 1_000, 3)],
                "rollout": {
                    "id": 2, "incoming": "v2", "incoming_id": "2".repeat(64), "outgoing": "v1",
                    "step": 0, "paused": paused, "reason": null, "unacked": [],
                    "started": 58_000,
                    "steps": [
                        { "share": 1_000, "min_calls": 20, "min_duration": 0, "pause": false },
                        { "share": 5_000, "min_calls": 20, "min_duration": 0, "pause": false },
                    ],
                },
            },
            {
                "name": "other", "revision": 1, "epoch": 1, "phase": "none", "holds": [],
                "live": 0, "releases": [], "rollout": null,
            },
        ],
        "gateways": [{ "gateway": "gw-1", "leased": true, "epochs": {} }],
        "journal": { "entries": 9, "head": "00", "error": null },
    });
    let call = |number: u64| {
        json!({
            "call": format!("CA{number:04}"), "agent": "desk", "release": "1".repeat(64),
            "worker": "w-1", "epoch": 1, "since": 10_000 + number * 1_000, "state": "live",
            "reason": "split", "bytes_in": 1, "bytes_out": 1,
        })
    };
    let calls = (0..40).map(|number| serde_json::from_value(call(number)).unwrap());
    News {
        status: serde_json::from_value(status).unwrap(),
        calls: calls.collect(),
        calls_unknown: Vec::new(),
        events: vec![Event {
            seq: 9,
            at: segue_core::time::Timestamp(99_000),
            actor: "operator:ann".to_owned(),
            what: "ramp step 1: v2 takes 10 % of new calls, and this goes on for longer than one line is wide".to_owned(),
        }],
        agent: Some("desk".to_owned()),
    }
}

fn canary() -> State {
    let mut state = State::default();
    state.take(news("canary", false, "current", "ramping"));
    state
}

fn type_in(state: &mut State, key: KeyCode) -> Option<Do> {
    press(state, KeyEvent::new(key, KeyModifiers::NONE))
}

fn check(state: &State, expected: &[&str]) {
    let frame = frame_as_text(state, 110, 30);
    for text in expected {
        assert!(frame.contains(text), "{text:?} is not in\n{frame}");
    }
}

#[test]
fn a_frame_shows_releases_shares_calls_decisions_and_what_is_waited_for() {
    check(
        &canary(),
        &[
            "desk (1 of 2)",
            "23 live calls",
            "1970-01-01T00:01:40Z",
            "gw-1",
            "█████████░ 90 %",
            "█░░░░░░░░░ 10 %",
            "v2 after v1, begun 42s ago: canary step 1 of 2",
            "waits: 3 of 20 calls ended in this step",
            "1m30s   v1         live     CA0000",
            "00:01:39 operator:ann: ramp step 1: v2 takes 10 %",
            "         calls, and this goes on for longer than one line",
            "R rollback",
        ],
    );
}

#[test]
fn a_draining_release_says_what_is_left() {
    let mut state = State::default();
    state.take(news("draining", false, "draining", "current"));
    check(&state, &["v1 drains: 20 calls left, the oldest 1m30s"]);
    // A caller who may come back is no call.
    let mut news = news("draining", false, "draining", "current");
    let v1 = &mut news.status.agents[0].releases[0];
    (v1.live, v1.pinned) = (0, 1);
    state.take(news);
    check(&state, &["v1 drains: 0 calls left, 1 may call back"]);
}

#[test]
fn every_size_can_be_drawn() {
    let mut state = canary();
    for dialog in [false, true] {
        if dialog {
            type_in(&mut state, KeyCode::Char('R'));
            assert!(state.dialog.is_some());
        }
        for width in [1, 20, 60, 300] {
            for height in [1, 2, 7, 16, 100] {
                let frame = frame_as_text(&state, width, height);
                assert_eq!(frame.split('\n').count(), usize::from(height));
            }
        }
    }
}

#[test]
fn a_verb_asks_first_and_says_what_will_happen() {
    let check_verb = |phase: &str, paused, states: (&str, &str), key: char, expected: &str| {
        let mut state = State::default();
        state.take(news(phase, paused, states.0, states.1));
        assert_eq!(type_in(&mut state, KeyCode::Char(key)), None, "{key} asks");
        let dialog = state.dialog.clone();
        let dialog = dialog.unwrap_or_else(|| panic!("{key}: {:?}", state.said));
        assert_eq!(dialog.revision, 12);
        assert!(dialog.consequence.contains(expected), "{dialog:?}");
        check(
            &state,
            &["y yes    n no", &format!("{} desk?", dialog.verb.word())],
        );
        // A stray key neither says yes nor no.
        assert_eq!(type_in(&mut state, KeyCode::Char('x')), None);
        let mut refused = state.clone();
        assert_eq!(type_in(&mut refused, KeyCode::Char('n')), None);
        assert_eq!(refused.dialog, None);
        check(&refused, &["nothing was done"]);
        assert_eq!(
            type_in(&mut state, KeyCode::Char('y')),
            Some(Do::Ask(dialog))
        );
        assert_eq!(state.dialog, None);
    };
    let ramp = ("current", "ramping");
    check_verb(
        "canary",
        false,
        ramp,
        'p',
        "v2 at 10 % of new calls, until somebody",
    );
    check_verb("canary", true, ramp, 'r', "goes on by itself");
    check_verb("canary", false, ramp, 'P', "v2 takes 50 % of new calls");
    check_verb(
        "canary",
        false,
        ramp,
        'a',
        "new calls go to v1 as before. The 3 live calls on v2",
    );
    check_verb(
        "canary",
        false,
        ramp,
        'R',
        "Every new call goes to v1 again, at once. The 3 live",
    );
    let landed = ("draining", "current");
    check_verb(
        "draining",
        false,
        landed,
        'R',
        "goes to v1 again, at once. The 3 live calls on v2",
    );
}

#[test]
fn what_does_not_fit_is_said_and_not_asked() {
    let check_refused = |phase: &str, states: (&str, &str), key: char, expected: &str| {
        let mut state = State::default();
        state.take(news(phase, false, states.0, states.1));
        assert_eq!(type_in(&mut state, KeyCode::Char(key)), None);
        assert_eq!(state.dialog, None);
        check(&state, &[expected]);
    };
    check_refused(
        "draining",
        ("draining", "current"),
        'p',
        "nothing to pause: the rollout is draining",
    );
    check_refused(
        "canary",
        ("current", "ramping"),
        'r',
        "the rollout is not paused",
    );
    check_refused(
        "complete",
        ("retired", "current"),
        'R',
        "no earlier release is running",
    );
    let mut state = canary();
    state.away = Some("no controller answers".to_owned());
    assert_eq!(type_in(&mut state, KeyCode::Char('R')), None);
    assert_eq!(state.dialog, None);
    check(&state, &["calls go on without it"]);
}

#[test]
fn calls_scroll_agents_change_and_help_goes_away() {
    let mut state = canary();
    type_in(&mut state, KeyCode::PageDown);
    type_in(&mut state, KeyCode::Down);
    check(&state, &["calls from 12 of 40", "CA0011"]);
    type_in(&mut state, KeyCode::End);
    assert_eq!(state.scroll, 39);
    // Calls end; what is left is shown.
    let mut fewer = news("canary", false, "current", "ramping");
    fewer.calls.truncate(5);
    state.take(fewer);
    assert_eq!(state.scroll, 4);
    type_in(&mut state, KeyCode::Char('?'));
    check(&state, &["Calls in progress are never moved."]);
    type_in(&mut state, KeyCode::Char('R'));
    assert!(
        !state.help && state.dialog.is_none(),
        "a key only closes it"
    );
    type_in(&mut state, KeyCode::Tab);
    check(&state, &["other (2 of 2)", "nothing was deployed yet"]);
    // What is heard of the agent before is not shown here.
    state.take(news("canary", false, "current", "ramping"));
    assert!(state.calls.is_empty() && state.events.is_empty());
    type_in(&mut state, KeyCode::Tab);
    check(&state, &["desk (1 of 2)"]);
}

#[test]
fn quitting_needs_one_key() {
    for key in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(type_in(&mut canary(), key), Some(Do::Quit));
    }
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut canary(), interrupt), Some(Do::Quit));
}
