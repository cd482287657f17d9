//! Rooms whose agent died: when they get another one, and when not.

mod back;
mod place;

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::dispatch::{
    Action, Answer, Ask, Dispatched, Entry, Event, LOOK_EVERY, LOOK_FIRST, LOOKED_FOR, Note,
    REDISPATCHES_MAX, REMEMBERED_FOR, RoomSeen, WorkerKey,
};
use segue_core::link::CallOutcome;
use segue_core::split::Split;
use segue_core::time::Millis;

use self::place::{BOTH, CALLER, LINE, NOBODY, Place, id, release};

#[test]
fn a_caller_whose_agent_died_gets_another_one() {
    let mut place = Place::broken();
    place.wait(Millis(LOOK_FIRST.0 - 1));
    assert!(!place.looks(), "too early");
    for seen in [BOTH, RoomSeen::Unknown, CALLER] {
        place.sees("a", seen);
        assert!(!place.dispatches(), "{seen:?}");
    }
    place.sees("a", CALLER);
    assert_eq!(place.ended(), None, "nobody else is there yet");
    let at = |is: &dyn Fn(&Action) -> bool| place.did.iter().position(is).unwrap();
    let written = at(&|action| matches!(action, Action::Write(Entry::Vacant(_))));
    let sent = at(&|action| match action {
        Action::Redispatch(ask) => {
            assert_eq!((&*ask.room, &*ask.again.metadata), ("room", "hello"));
            assert_eq!(ask.again.identity, "agent-a");
            true
        }
        _ => false,
    });
    assert!(written < sent, "what is done is written down first");
    place.step(Event::Redispatched {
        job: id("a"),
        answer: Dispatched::Made,
    });
    assert!(!place.says_redispatched(), "nobody has taken it yet");
    place.connect(2, "v1");
    place.begin(2, "b", "room");
    assert!(place.says_redispatched());
    assert_eq!(place.ended(), Some(CallOutcome::Dropped));
    // Its worker comes back, and is told.
    place.connect(3, "v1");
    place.claims(3, "a");
    assert!(place.ends(3, "a"), "{:?}", place.did);
    assert!(
        !place.jobs.contains_key(&id("a")),
        "it is not taken for a job"
    );
    place.says(2, "b", Some(true));
    place.wait(REMEMBERED_FOR);
    assert_eq!(place.rooms.len(), 0, "nothing is remembered for ever");
}

#[test]
fn one_look_is_enough_if_the_worker_says_that_its_process_died() {
    let mut place = Place::open();
    place.connect(1, "v1");
    place.run(1, "a", "room");
    place.says(1, "a", Some(false));
    assert_eq!(place.ended(), Some(CallOutcome::Dropped));
    place.step(Event::Tick);
    place.wait(Millis(1));
    // The look was due at once.
    place.step(Event::RoomSeen {
        job: id("a"),
        seen: CALLER,
    });
    assert!(place.dispatches());
}

#[test]
fn nobody_is_disturbed_who_needs_no_agent() {
    for last in [RoomSeen::Closed, RoomSeen::Answered] {
        let mut place = Place::broken();
        place.sees("a", CALLER);
        place.sees("a", last);
        assert!(!place.dispatches());
        place.wait(LOOK_EVERY);
        assert!(!place.looks(), "{last:?}");
        assert_eq!(place.rooms.len(), 0);
    }
    // Nobody there is nobody to answer, but whoever was there may come back.
    let mut place = Place::broken();
    place.sees("a", NOBODY);
    place.sees("a", NOBODY);
    assert!(!place.dispatches());
    place.sees("a", CALLER);
    place.sees("a", CALLER);
    assert!(place.dispatches());
    // An agent that is on its way back is counted from the beginning.
    let mut place = Place::broken();
    for seen in [CALLER, BOTH, CALLER] {
        place.sees("a", seen);
        assert!(!place.dispatches());
    }
    // Not for ever.
    let mut place = Place::broken();
    place.wait(LOOKED_FOR);
    assert!(!place.looks());
    assert_eq!(place.rooms.len(), 0);
}

#[test]
fn a_worker_that_comes_back_keeps_its_job() {
    let mut place = Place::broken();
    place.sees("a", CALLER);
    place.wait(LOOK_EVERY);
    place.connect(2, "v1");
    place.step(Event::Claimed {
        worker: WorkerKey(2),
        jobs: vec![id("a")],
    });
    assert_eq!(place.rooms.len(), 0);
    // The look that was under way finds what it finds.
    place.step(Event::RoomSeen {
        job: id("a"),
        seen: CALLER,
    });
    assert!(!place.dispatches());
    assert_eq!(place.jobs.len(), 1);
    // It ends in order, and its room is let alone.
    place.says(2, "a", Some(true));
    assert_eq!(place.ended(), Some(CallOutcome::Completed));
    assert_eq!(place.rooms.len(), 0);
}

#[test]
fn the_servers_word_that_the_agent_left_is_one_look() {
    let mut place = Place::broken();
    place.wait(LOOK_FIRST);
    place.step(Event::RoomSeen {
        job: id("a"),
        seen: BOTH,
    });
    place.step(Event::Terminated {
        job: id("a"),
        body: b"end".as_slice().into(),
    });
    place.step(Event::Tick);
    assert_eq!(place.ended(), None);
    place.step(Event::RoomSeen {
        job: id("a"),
        seen: CALLER,
    });
    assert!(place.dispatches());
    // A room that was closed is over, with the job.
    let mut place = Place::broken();
    place.step(Event::Terminated {
        job: id("a"),
        body: b"end".as_slice().into(),
    });
    place.step(Event::Tick);
    place.step(Event::RoomSeen {
        job: id("a"),
        seen: RoomSeen::Closed,
    });
    place.wait(segue_core::dispatch::TAIL);
    assert!(!place.dispatches());
    assert_eq!(place.jobs.len(), 0);
}

#[test]
fn who_is_killed_does_not_dispatch_twice() {
    // Before it is decided: another process goes on looking.
    let mut place = Place::broken();
    place.sees("a", CALLER);
    place.restart();
    place.sees("a", CALLER);
    assert!(!place.dispatches(), "what was seen is not written down");
    place.sees("a", CALLER);
    assert!(place.dispatches());
    // Behind the line, and nobody knows whether it was sent: the server is asked.
    for (known, again) in [(RoomSeen::Answered, false), (CALLER, true)] {
        let mut place = Place::broken();
        place.sees("a", CALLER);
        place.sees("a", CALLER);
        place.restart();
        place.sees("a", known);
        assert_eq!(place.dispatches(), again);
        assert_eq!(place.says_redispatched(), !again);
        // Only if somebody else is there it is not its worker's any more.
        place.connect(2, "v1");
        place.claims(2, "a");
        assert_eq!(place.ends(2, "a"), !again);
        assert_eq!(place.runs("a"), again);
    }
}

#[test]
fn an_answer_that_is_lost_is_looked_for() {
    let mut place = Place::broken();
    place.sees("a", CALLER);
    place.sees("a", CALLER);
    let unknown = |place: &mut Place| {
        place.step(Event::Redispatched {
            job: id("a"),
            answer: Dispatched::Unknown,
        });
    };
    unknown(&mut place);
    assert!(!place.dispatches(), "not at once");
    // Two more times, and then no more.
    for _ in 0..2 {
        place.sees("a", CALLER);
        assert!(place.dispatches());
        unknown(&mut place);
    }
    place.sees("a", CALLER);
    assert!(!place.dispatches());
    let left = |action: &Action| matches!(action, Action::Note(Note::RoomLeft { .. }));
    assert!(place.did.iter().any(left));
    place.wait(LOOK_EVERY);
    assert!(!place.looks());
}

#[test]
fn an_agent_that_always_dies_is_not_dispatched_for_ever() {
    let mut place = Place::open();
    place.connect(1, "v1");
    for times in 0..=REDISPATCHES_MAX {
        let job = format!("a{times}");
        place.run(1, &job, "room");
        place.says(1, &job, Some(false));
        place.wait(Millis(1));
        place.step(Event::RoomSeen {
            job: id(&job),
            seen: CALLER,
        });
        assert_eq!(place.dispatches(), times < REDISPATCHES_MAX, "{times}");
        place.step(Event::Redispatched {
            job: id(&job),
            answer: Dispatched::Made,
        });
    }
    // The last one was left.
    place.wait(REMEMBERED_FOR);
    place.wait(Millis(1));
    place.run(1, "b", "room");
    place.says(1, "b", Some(false));
    place.wait(Millis(1));
    place.step(Event::RoomSeen {
        job: id("b"),
        seen: CALLER,
    });
    assert!(place.dispatches(), "it is forgotten after a while");
}

#[test]
fn the_next_job_of_a_room_goes_to_its_release_only_if_that_takes_jobs() {
    for (drains, to) in [(false, 1), (true, 2)] {
        let mut place = Place::open();
        place.connect(1, "v1");
        place.connect(2, "v2");
        place.connect(3, "v1");
        // Pinned to v1, whatever the split says.
        place.table.split = Split::all(release("v1"));
        place.run(1, "a", "room");
        let asked = place.jobs[&id("a")].worker.to_string();
        let worker = if asked == "AW_1" { 1 } else { 3 };
        place.table.epoch = place.table.epoch.next();
        place.table.split = Split::all(release("v2"));
        let route = place.table.releases.get_mut(&release("v1")).unwrap();
        route.takes_new_calls = !drains;
        place.step(Event::Table(Box::new(place.table.clone())));
        place.breaks(worker);
        place.sees("a", CALLER);
        place.sees("a", CALLER);
        assert!(place.dispatches());
        place.step(Event::Offered {
            line: LINE,
            ask: Ask {
                job: id("b"),
                room: "room".to_owned(),
                fields: BTreeMap::new(),
                again: None,
                body: b"b".as_slice().into(),
            },
        });
        let asks = place.did.iter().find_map(|action| match action {
            Action::ToWorker { worker, .. } => Some(worker.0),
            _ => None,
        });
        let of = if asks == Some(2) { 2 } else { 1 };
        assert_eq!((asks.is_some(), of), (true, to));
    }
}

#[test]
fn a_room_says_its_release_once_its_job_is_given() {
    let mut place = Place::open();
    place.connect(1, "v1");
    place.step(Event::Tick);
    let mut labelled = Vec::new();
    let body: Arc<[u8]> = b"a".as_slice().into();
    place.step(Event::Offered {
        line: LINE,
        ask: Ask {
            job: id("a"),
            room: "room".to_owned(),
            fields: BTreeMap::new(),
            again: None,
            body: body.clone(),
        },
    });
    place.step(Event::Answered {
        worker: WorkerKey(1),
        answer: Answer {
            job: id("a"),
            available: true,
            terminate: false,
            identity: "agent".to_owned(),
            body: body.clone(),
        },
    });
    place.step(Event::Assigned { job: id("a"), body });
    for (at, action) in place.did.iter().enumerate() {
        match action {
            Action::Label { room, label } => labelled.push((at, room.clone(), label.to_string())),
            Action::ToWorker { .. } => assert!(labelled.is_empty(), "the job goes first"),
            _ => {}
        }
    }
    let [(_, room, label)] = &labelled[..] else {
        panic!("{:?}", place.did);
    };
    assert_eq!((&**room, &**label), ("room", "v1"));
}
