//! Workers that come back to rooms that were dispatched again, dispatches that nobody takes, and words of
//! the server and of workers that come in another order.

use segue_core::dispatch::{
    Action, Dispatched, LOOK_EVERY, LOOK_FIRST, LOOK_SELDOM, LOOKED_FOR, LineKey, Note, ROOMS_MAX,
    RoomSeen, SENDS_MAX, TAIL, TAKEN_WITHIN, VacancyStage,
};
use segue_core::link::CallOutcome;
use segue_core::time::Millis;

use super::place::{BOTH, CALLER, NOBODY, Place, id, other};

/// Dispatched since, and nobody is there but the caller.
const ASKED: RoomSeen = RoomSeen::Asked { callers: true };

#[test]
fn a_worker_that_is_back_before_anybody_else_has_begun_keeps_its_job() {
    for made in [
        None,
        Some(Dispatched::Made),
        Some(Dispatched::Unknown),
        Some(Dispatched::Refused),
    ] {
        let mut place = Place::broken();
        place.sees("a", CALLER);
        place.sees("a", CALLER);
        assert!(place.dispatches());
        if let Some(answer) = made {
            place.answers(answer);
        }
        place.connect(2, "v1");
        place.claims(2, "a");
        assert!(!place.ends(2, "a"), "{made:?}: nobody took it over");
        assert!(place.runs("a"), "{made:?}");
        assert_eq!(place.rooms.len(), 0, "{made:?}");
        // It is no other job by that, and ends as it would have.
        place.says(2, "a", Some(true));
        assert_eq!(place.ended(), Some(CallOutcome::Completed), "{made:?}");
    }
}

#[test]
fn nobody_else_is_let_in_once_it_is_back() {
    // What the server offers late, for what was dispatched meanwhile.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.claims(2, "a");
    place.offer("b", "room");
    assert!(place.refuses("b"));
    place.wait(Millis(10_000));
    place.connect(3, "v1");
    place.offer("c", "room");
    assert!(!place.refuses("c"), "not for ever: it may be wanted");
    // An offer that waits for an answer.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.offer("b", "room");
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.refuses("b") && place.runs("a"));
    // One that is promised, and assigned then.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.promise(2, "b", "room");
    place.connect(3, "v1");
    place.claims(3, "a");
    place.assign("b");
    assert!(!place.jobs.contains_key(&id("b")), "it does not begin");
    assert!(place.runs("a"));
    // Its agent is seen before its worker is back.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.sees("a", BOTH);
    place.offer("b", "room");
    assert!(place.refuses("b"));
}

#[test]
fn a_room_that_is_kept_for_one_agent_lets_another_agent_in() {
    let line = LineKey(2);
    let mut place = Place::made();
    place.opens(&other());
    place.connect(2, "v1");
    place.connect_to(line, other(), 3, "v1");
    // Promised before, offered behind it; each is in the room with the one that is back.
    place.promise_on(line, 3, "b", "room");
    place.claims(2, "a");
    place.assign("b");
    assert!(place.runs("a") && place.runs("b"), "{:?}", place.did);
    place.promise_on(line, 3, "c", "room");
    assert!(!place.refuses("c"));
    place.assign("c");
    assert!(place.runs("c"));
    // What keeps the room of the one lets nobody else in for it on account of the other.
    place.offer("d", "room");
    assert!(place.refuses("d"));
}

#[test]
fn a_worker_of_another_agent_has_no_say_in_a_room() {
    let mut place = Place::made();
    place.opens(&other());
    place.connect_to(LineKey(2), other(), 4, "v1");
    // Dispatched, and answered.
    for answered in [false, true] {
        if answered {
            place.connect(2, "v1");
            place.run(2, "b", "room");
        }
        place.claims(4, "a");
        assert!(!place.ends(4, "a") && !place.runs("a"), "{:?}", place.did);
        let refused = |action: &Action| matches!(action, Action::Note(Note::ClaimRefused { .. }));
        assert!(place.did.iter().any(refused));
        assert_eq!(place.rooms.len(), 1);
    }
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.ends(3, "a"));
}

#[test]
fn a_successor_that_has_begun_stays_also_if_nobody_waits_for_it_any_more() {
    // Given up: the server refused it, and somebody else dispatched the agent.
    let mut place = Place::broken();
    place.sees("a", CALLER);
    place.sees("a", CALLER);
    place.answers(Dispatched::Refused);
    assert!(place.is_left());
    place.connect(2, "v1");
    place.run(2, "b", "room");
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.ends(3, "a"));
    assert!(place.runs("b") && !place.runs("a"));
}

#[test]
fn what_the_server_has_and_nobody_takes_is_sent_again_and_then_left() {
    let mut place = Place::made();
    // Here is somebody who would take it.
    place.connect(3, "v1");
    for times in 1..=SENDS_MAX {
        let mut waited = Millis(0);
        while waited < TAKEN_WITHIN {
            assert!(
                !place.dispatches() && !place.is_left(),
                "{times}: too early"
            );
            place.sees("a", ASKED);
            waited = Millis(waited.0 + LOOK_EVERY.0);
        }
        if times < SENDS_MAX {
            assert!(place.dispatches(), "{times}");
            place.answers(Dispatched::Made);
        }
    }
    assert!(place.is_left());
    assert!(!place.says_redispatched());
    // Its worker is back after all.
    place.connect(2, "v1");
    place.claims(2, "a");
    assert!(place.runs("a"));
}

#[test]
fn it_is_not_sent_again_while_nobody_is_there_to_take_it() {
    let waits = |place: &mut Place| {
        for _ in 0..20 {
            place.sees("a", ASKED);
            assert!(!place.dispatches() && !place.is_left(), "nobody is back");
        }
    };
    // All workers are down for a minute.
    let mut place = Place::made();
    waits(&mut place);
    place.connect(2, "v1");
    place.sees("a", ASKED);
    assert!(place.dispatches());
    place.answers(Dispatched::Made);
    place.begin(2, "b", "room");
    assert!(place.says_redispatched());
    // They do not come back.
    let mut place = Place::made();
    waits(&mut place);
    place.wait(LOOKED_FOR);
    assert!(place.is_left());
}

#[test]
fn an_agent_that_stays_is_looked_for_less_often() {
    let mut place = Place::broken();
    for _ in 0..10 {
        place.sees("a", BOTH);
    }
    place.wait(Millis(LOOK_SELDOM.0 - 1));
    assert!(!place.looks());
    place.wait(Millis(1));
    assert!(place.looks() && place.d.awaits_look(&id("a")));
    // Once it is gone, as often as before.
    place.finds("a", CALLER);
    assert!(!place.d.awaits_look(&id("a")));
    place.sees("a", CALLER);
    assert!(place.dispatches());
}

#[test]
fn a_job_that_nobody_comes_back_to_is_dropped() {
    let mut place = Place::made();
    let mut ended = None;
    for _ in 0..=(LOOKED_FOR.0 / LOOK_EVERY.0) {
        place.wait(LOOK_EVERY);
        ended = ended.or(place.ended());
        if place.looks() {
            place.finds("a", NOBODY);
        }
    }
    assert_eq!(ended, Some(CallOutcome::Dropped));
    assert!(!place.says_redispatched());
}

#[test]
fn somebody_elses_dispatch_is_left_to_them_as_long_as_somebody_may_come() {
    let mut place = Place::broken();
    place.sees("a", ASKED);
    place.sees("a", RoomSeen::Answered);
    assert_eq!(place.rooms.len(), 0);
    assert!(!place.dispatches());
    // It is offered here, and asked of a worker.
    let mut place = Place::broken();
    place.connect(2, "v1");
    for _ in 0..=TAKEN_WITHIN.0 / LOOK_EVERY.0 {
        place.sees("a", ASKED);
        assert!(!place.dispatches());
    }
    place.begin(2, "b", "room");
    place.sees("a", ASKED);
    assert!(!place.dispatches(), "its agent is on its way");
}

#[test]
fn a_dispatch_that_nobody_comes_by_any_more_does_not_leave_the_caller_alone() {
    let looks = TAKEN_WITHIN.0 / LOOK_EVERY.0;
    let waits = |place: &mut Place, looks: u64| {
        for _ in 0..looks {
            place.sees("a", ASKED);
            assert!(!place.dispatches() && !place.is_left(), "too early");
        }
        place.sees("a", ASKED);
        assert!(place.dispatches());
    };
    // Dispatched, and its worker was back first; the server lists that dispatch until the room closes.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.claims(2, "a");
    place.wait(Millis::from_secs(3_600));
    place.breaks(2);
    waits(&mut place, looks + 1);
    // The same if its worker says that its process died.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.claims(2, "a");
    place.wait(Millis::from_secs(3_600));
    place.says(2, "a", Some(false));
    place.finds("a", ASKED);
    assert!(!place.dispatches());
    waits(&mut place, looks);
}

#[test]
fn who_is_killed_when_the_successor_had_begun_knows_it() {
    // Behind the line that tells it: the one before is not written off without a word.
    let mut place = Place::made();
    let before = place.jobs[&id("a")].clone();
    place.connect(2, "v1");
    place.run(2, "b", "room");
    assert_eq!(place.rooms[&id("a")].stage, VacancyStage::Answered);
    place.jobs.insert(id("a"), before.clone());
    place.restart();
    let waits = place.d.list(None, usize::MAX);
    assert_eq!(waits.len(), 2);
    place.wait(LOOK_FIRST);
    assert_eq!(place.ended(), Some(CallOutcome::Dropped));
    // A worker that is faster is told, and it is dropped, too.
    place.jobs.insert(id("a"), before.clone());
    place.restart();
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.ends(3, "a"));
    assert_eq!(place.ended(), Some(CallOutcome::Dropped));
    // Before that line, and behind that of the successor.
    place.jobs.insert(id("a"), before);
    let mut room = place.rooms[&id("a")].clone();
    room.stage = VacancyStage::Made { times: 1 };
    place.rooms.insert(id("a"), room);
    place.restart();
    place.connect(4, "v1");
    place.claims(4, "a");
    assert!(place.ends(4, "a"));
}

#[test]
fn a_machine_that_is_gone_without_a_word_is_looked_after() {
    // The server notices first, and ends the job on a connection that leads nowhere.
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.terminate("a");
    place.wait(Millis(5_000));
    place.breaks(1);
    place.sees("a", CALLER);
    assert!(place.dispatches(), "the server's word was a look");
    place.answers(Dispatched::Made);
    place.connect(2, "v1");
    place.begin(2, "b", "room");
    assert_eq!(place.ended(), Some(CallOutcome::Dropped));
    // A room that is closed is over with its job.
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.terminate("a");
    place.breaks(1);
    place.sees("a", RoomSeen::Closed);
    place.wait(TAIL);
    assert_eq!(place.ended(), Some(CallOutcome::Completed));
}

#[test]
fn an_agent_that_left_in_order_is_not_replaced() {
    // Its worker is back with another job, and without this one.
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.run(1, "b", "other");
    place.breaks(1);
    place.connect(2, "v1");
    place.claims(2, "b");
    assert_eq!(place.rooms.len(), 0);
    place.wait(LOOK_FIRST);
    assert!(!place.looks());
    // The server has ended it, and its process fails only then.
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.terminate("a");
    place.says(1, "a", Some(false));
    place.wait(LOOK_FIRST);
    assert!(!place.looks());
}

#[test]
fn who_configures_it_no_more_gets_no_agent() {
    let mut place = Place::broken();
    place.sees("a", CALLER);
    place.settings.clear();
    place.restart();
    assert_eq!(place.rooms.len(), 0, "not for the process after, either");
    place.wait(LOOK_EVERY);
    assert!(!place.looks());
    // What is answered is known all the same.
    let mut place = Place::made();
    place.connect(2, "v1");
    place.run(2, "b", "room");
    place.settings.clear();
    place.restart();
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.ends(3, "a"));
}

#[test]
fn a_full_list_of_rooms_keeps_those_that_it_has() {
    let mut place = Place::open();
    place.connect(1, "v1");
    for room in 0..ROOMS_MAX {
        place.run(1, &format!("a{room}"), &format!("room-{room}"));
    }
    place.breaks(1);
    assert_eq!(place.rooms.len(), ROOMS_MAX);
    // One more is none too many if it is one of these.
    place.connect(2, "v1");
    place.says(2, "a0", Some(false));
    assert!(!place.is_left());
    place.wait(Millis(1));
    place.finds("a0", CALLER);
    assert!(place.dispatches());
}

#[test]
fn a_dispatcher_that_stops_leaves_the_room_to_the_next_one_and_says_so() {
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.step(segue_core::dispatch::Event::Stop);
    place.breaks(1);
    place.sees("a", CALLER);
    place.sees("a", CALLER);
    assert!(!place.dispatches());
    assert!(place.is_left());
    place.sees("a", CALLER);
    assert!(!place.is_left(), "once");
    place.restart();
    place.sees("a", CALLER);
    place.sees("a", CALLER);
    assert!(place.dispatches());
}

#[test]
fn nothing_is_asked_of_the_server_unless_it_is_configured() {
    let mut place = Place::open();
    place.settings.clear();
    place.restart();
    place.connect(1, "v1");
    place.begin(1, "a", "room");
    let asks = |place: &Place| {
        let is = |action: &Action| {
            matches!(
                action,
                Action::Label { .. } | Action::LookAtRoom(_) | Action::Redispatch(_)
            )
        };
        place.did.iter().any(is)
    };
    assert!(!asks(&place) && place.jobs[&id("a")].again.is_none());
    place.says(1, "a", Some(false));
    place.run(1, "b", "other");
    place.breaks(1);
    for _ in 0..3 {
        place.wait(LOOK_EVERY);
        assert!(!asks(&place));
    }
    assert_eq!(place.rooms.len(), 0);
    assert!(
        !place
            .did
            .iter()
            .any(|action| matches!(action, Action::Note(Note::RoomLeft { .. })))
    );
}
