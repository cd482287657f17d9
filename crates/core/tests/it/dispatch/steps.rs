//! Single steps: what the simulated world finds by chance, said once in so many words.

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::dispatch::{
    ASK_FOR, Action, Answer, Ask, CLAIM_WITHIN, Dispatcher, Entry, Event, Hello, JobRecord, LineId,
    LineKey, MUTE_WITHIN, WorkerKey, WorkerStatus,
};
use segue_core::link::CallOutcome;
use segue_core::names::{AgentName, CallId, ReleaseId, WorkerId};
use segue_core::plane::{DrainedBy, Steer};
use segue_core::rollout::Agent;
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable};
use segue_core::time::{Millis, Timestamp};

/// A dispatcher with one agent, and what it did last.
struct Desk {
    d: Dispatcher,
    now: Timestamp,
    table: RoutingTable,
    did: Vec<Action>,
    records: BTreeMap<CallId, JobRecord>,
}

const LINE: LineKey = LineKey(1);

fn release(label: &str) -> ReleaseId {
    ReleaseId::of(label.as_bytes())
}

fn agent() -> AgentName {
    "desk".parse().unwrap()
}

fn job(name: &str) -> CallId {
    name.parse().unwrap()
}

fn id(worker: u64) -> WorkerId {
    format!("AW_{worker}").parse().unwrap()
}

fn bytes(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

impl Desk {
    /// Everything goes to v1.
    fn open() -> Self {
        let route = |label: &str| ReleaseRoute {
            label: label.parse().unwrap(),
            takes_new_calls: true,
            retiring: false,
        };
        let releases = ["v1", "v2"].map(|label| (release(label), route(label)));
        let table = RoutingTable {
            epoch: Epoch(1),
            split: Split::all(release("v1")),
            releases: releases.into(),
            ..Agent::new(agent()).table()
        };
        let now = Timestamp(1_000);
        let mut desk = Self {
            d: Dispatcher::new(BTreeMap::new(), Vec::new(), now),
            now,
            table: table.clone(),
            did: Vec::new(),
            records: BTreeMap::new(),
        };
        desk.step(Event::Table(Box::new(table)));
        desk
    }

    fn step(&mut self, event: Event) {
        self.did = self.d.step(self.now, event);
        for action in &self.did {
            match action {
                Action::Write(Entry::Begun(record)) => {
                    self.records.insert(record.job.clone(), record.clone());
                }
                Action::Write(Entry::Drained { job, drains }) => {
                    self.records.get_mut(job).unwrap().drains = drains.clone();
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self, time: Millis) {
        self.now = self.now + time;
        self.step(Event::Tick);
    }

    /// The next table sends everything to one release; the other winds down.
    fn all_to(&mut self, label: &str) {
        self.table.epoch = self.table.epoch.next();
        self.table.split = Split::all(release(label));
        for (id, route) in &mut self.table.releases {
            route.takes_new_calls = *id == release(label);
            route.retiring = !route.takes_new_calls;
        }
        self.step(Event::Table(Box::new(self.table.clone())));
    }

    fn hello(&mut self, worker: u64, label: &str, library: &str, draining: bool) {
        self.step(Event::Registered(Box::new(Hello {
            worker: WorkerKey(worker),
            id: id(worker),
            release: release(label),
            line: LineId {
                agent: agent(),
                agent_name: "demo".to_owned(),
                kind: 0,
                namespace: String::new(),
                permissions: None,
            },
            draining,
            library: library.to_owned(),
            from: None,
        })));
        self.step(Event::LineUp { line: LINE });
    }

    /// A worker that takes jobs.
    fn connect(&mut self, worker: u64) {
        self.hello(worker, "v1", "1.8.9", false);
        self.says(worker, true, 0.1);
    }

    fn says(&mut self, worker: u64, available: bool, load: f32) {
        self.step(Event::Status {
            worker: WorkerKey(worker),
            status: WorkerStatus {
                available: Some(available),
                load,
                draining: false,
            },
        });
    }

    fn offer(&mut self, name: &str) {
        let ask = Ask {
            job: job(name),
            room: format!("room-{name}"),
            fields: BTreeMap::new(),
            body: bytes("offer"),
            again: None,
        };
        self.step(Event::Offered { line: LINE, ask });
    }

    fn answers(&mut self, worker: u64, name: &str, available: bool, terminate: bool) {
        self.step(Event::Answered {
            worker: WorkerKey(worker),
            answer: Answer {
                job: job(name),
                available,
                terminate,
                identity: format!("agent-{name}"),
                body: bytes(if terminate { "never" } else { "yes" }),
            },
        });
    }

    /// A job is over in order, as its worker says.
    fn ends(&mut self, worker: u64, name: &str) {
        let (worker, job, body) = (WorkerKey(worker), job(name), bytes("success"));
        self.step(Event::JobUpdate {
            worker,
            job,
            ended_well: Some(true),
            body,
        });
    }

    fn assign(&mut self, name: &str) {
        let (job, body) = (job(name), bytes("assignment"));
        self.step(Event::Assigned { job, body });
    }

    /// A job from its offer to its beginning.
    fn begin(&mut self, worker: u64, name: &str) {
        self.offer(name);
        assert_eq!(self.asked(), [worker]);
        self.answers(worker, name, true, false);
        assert!(self.told_server("yes"));
        self.assign(name);
    }

    fn close(&mut self, worker: u64) {
        let (worker, code) = (WorkerKey(worker), None);
        self.step(Event::Closed { worker, code });
    }

    fn claim(&mut self, worker: u64, names: &[&str]) {
        let (worker, jobs) = (WorkerKey(worker), names.iter().map(|n| job(n)).collect());
        self.step(Event::Claimed { worker, jobs });
    }

    fn steer(&mut self, worker: u64, what: Steer) {
        let (agent, worker) = (agent(), id(worker));
        self.step(Event::Steer {
            agent,
            worker,
            what,
        });
    }

    fn drain(&mut self, worker: u64, by: DrainedBy) {
        let worker = WorkerKey(worker);
        self.step(Event::Drain { worker, by });
    }

    fn undrain(&mut self, worker: u64, by: DrainedBy) {
        let worker = WorkerKey(worker);
        self.step(Event::Undrain { worker, by });
    }

    fn drained_by(&self, worker: u64) -> Option<DrainedBy> {
        let shown = self.d.connected_as(&agent(), &id(worker)).unwrap();
        assert!(!shown.available || shown.drain.is_none());
        shown.drain
    }

    /// Who was sent what by the last step.
    fn sent(&self, what: &str) -> Vec<u64> {
        let to = |action: &Action| match action {
            Action::ToWorker { worker, body } if **body == *what.as_bytes() => Some(worker.0),
            _ => None,
        };
        self.did.iter().filter_map(to).collect()
    }

    fn asked(&self) -> Vec<u64> {
        self.sent("offer")
    }

    fn told_server(&self, what: &str) -> bool {
        let is_it = |action: &Action| matches!(action, Action::ToServer { body, .. } if **body == *what.as_bytes());
        self.did.iter().any(is_it)
    }

    fn ended(&self) -> Option<(CallOutcome, &str)> {
        self.did.iter().find_map(|action| match action {
            Action::Ended(record) => Some((record.outcome, record.cause.as_str())),
            _ => None,
        })
    }

    fn is_terminated(&self) -> bool {
        let is_it = |action: &Action| matches!(action, Action::Terminate { .. });
        self.did.iter().any(is_it)
    }

    fn end_by_policy(&mut self, name: &str) {
        self.step(Event::EndCalls {
            agent: agent(),
            release: release("v1"),
            epoch: Epoch(2),
            calls: vec![job(name)],
        });
    }
}

#[test]
fn who_is_admitted_again_takes_jobs_again() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.drain(1, DrainedBy::Membership);
    desk.offer("a");
    assert!(desk.asked().is_empty());
    // Also the job that waits.
    desk.undrain(1, DrainedBy::Membership);
    assert_eq!(desk.asked(), [1]);
}

#[test]
fn who_came_while_barred_takes_jobs_once_admitted() {
    let mut desk = Desk::open();
    desk.hello(1, "v1", "1.8.9", true);
    desk.says(1, true, 0.1);
    assert_eq!(desk.drained_by(1), Some(DrainedBy::Membership));
    desk.undrain(1, DrainedBy::Membership);
    desk.begin(1, "a");
}

#[test]
fn each_takes_back_only_its_own_word() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.drain(1, DrainedBy::Membership);
    desk.steer(1, Steer::Drain);
    desk.undrain(1, DrainedBy::Membership);
    assert_eq!(desk.drained_by(1), Some(DrainedBy::Operator));
    desk.drain(1, DrainedBy::Membership);
    desk.steer(1, Steer::Undrain);
    assert_eq!(desk.drained_by(1), Some(DrainedBy::Membership));
    // Full without load: it drains, and an order beside it does not hide that.
    desk.says(1, false, 0.0);
    desk.undrain(1, DrainedBy::Membership);
    desk.steer(1, Steer::Undrain);
    desk.undrain(1, DrainedBy::Worker);
    desk.says(1, true, 0.1);
    assert_eq!(desk.drained_by(1), Some(DrainedBy::Worker));
    desk.offer("a");
    assert!(desk.asked().is_empty());
}

#[test]
fn a_worker_is_known_again_by_its_jobs_also_by_the_next_dispatcher() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.steer(1, Steer::Drain);
    desk.close(1);
    desk.connect(2);
    desk.claim(2, &["a"]);
    assert_eq!(desk.drained_by(2), Some(DrainedBy::Operator));

    let mut next = Desk::open();
    let records = desk.records.values().cloned().collect();
    next.records.clone_from(&desk.records);
    next.d = Dispatcher::new(BTreeMap::new(), records, next.now);
    next.step(Event::Table(Box::new(next.table.clone())));
    next.connect(3);
    next.claim(3, &["a"]);
    assert_eq!(next.drained_by(3), Some(DrainedBy::Operator));
    next.steer(3, Steer::Undrain);
    next.begin(3, "b");
    // What was lifted is not remembered.
    next.close(3);
    next.connect(4);
    next.claim(4, &["a", "b"]);
    assert_eq!(next.drained_by(4), None);
}

#[test]
fn a_job_that_began_after_its_worker_drained_remembers_that() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.offer("a");
    desk.answers(1, "a", true, false);
    desk.steer(1, Steer::Drain);
    desk.assign("a");
    assert_eq!(desk.sent("assignment"), [1]);
    desk.close(1);
    desk.connect(2);
    desk.claim(2, &["a"]);
    assert_eq!(desk.drained_by(2), Some(DrainedBy::Operator));
}

#[test]
fn who_is_kicked_keeps_its_jobs_and_what_it_had_promised_goes_elsewhere() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.offer("b");
    desk.answers(1, "b", true, false);
    desk.connect(2);
    desk.steer(1, Steer::Kick);
    let worker = WorkerKey(1);
    assert!(desk.did.contains(&Action::Kick { worker }));
    assert_eq!(desk.asked(), [2]);
    desk.answers(2, "b", true, false);
    desk.assign("b");
    assert_eq!(desk.sent("assignment"), [2]);
    assert!(desk.ended().is_none());
    // The socket's end is no news.
    desk.close(1);
    assert_eq!(desk.did, []);
    desk.connect(3);
    desk.claim(3, &["a"]);
    assert_eq!(desk.drained_by(3), Some(DrainedBy::Operator));
    let shown = desk.d.connected_as(&agent(), &id(3)).unwrap();
    assert_eq!(shown.jobs, [job("a")]);
}

#[test]
fn who_is_not_connected_cannot_be_meant() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.steer(2, Steer::Kick);
    assert_eq!(desk.did, []);
    let (agent, worker) = ("other".parse().unwrap(), id(1));
    let what = Steer::Drain;
    desk.step(Event::Steer {
        agent,
        worker,
        what,
    });
    assert_eq!(desk.drained_by(1), None);
}

#[test]
fn a_job_that_was_to_end_while_its_worker_was_away_lives_on_after_a_rollback() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.all_to("v2");
    desk.close(1);
    desk.end_by_policy("a");
    desk.all_to("v1");
    desk.connect(2);
    desk.claim(2, &["a"]);
    assert!(!desk.is_terminated());
    // It was not said in vain for good: who still wants it says it again.
    desk.all_to("v2");
    desk.end_by_policy("a");
    assert!(desk.is_terminated());
}

#[test]
fn what_a_worker_was_told_before_it_was_away_is_not_told_again_after_a_rollback() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.all_to("v2");
    desk.end_by_policy("a");
    assert!(desk.is_terminated());
    desk.close(1);
    desk.all_to("v1");
    desk.connect(2);
    desk.claim(2, &["a"]);
    assert!(!desk.is_terminated());
    desk.wait(CLAIM_WITHIN);
    assert_eq!(desk.ended(), None, "it is alive, and in use");
}

#[test]
fn one_who_was_silent_ends_no_job_that_another_one_may_take() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.connect(2);
    desk.offer("a");
    assert_eq!(desk.asked(), [1]);
    desk.wait(ASK_FOR);
    assert_eq!(desk.asked(), [2]);
    desk.answers(1, "a", false, true);
    assert_eq!(
        desk.did
            .iter()
            .filter(|a| matches!(a, Action::ToServer { .. }))
            .count(),
        0
    );
    desk.answers(2, "a", true, false);
    assert!(desk.told_server("yes"));
}

#[test]
fn one_whose_release_takes_no_more_jobs_ends_none() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.hello(2, "v2", "1.8.9", false);
    desk.says(2, true, 0.1);
    desk.offer("a");
    assert_eq!(desk.asked(), [1]);
    desk.all_to("v2");
    assert_eq!(desk.asked(), [2]);
    desk.answers(1, "a", false, true);
    assert!(!desk.told_server("never"));
    assert_eq!(desk.ended(), None);
    desk.answers(2, "a", true, false);
    assert!(desk.told_server("yes"));
}

#[test]
fn one_who_drains_ends_none_and_the_next_one_is_asked() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.connect(2);
    desk.offer("a");
    assert_eq!(desk.asked(), [1]);
    desk.steer(1, Steer::Drain);
    desk.answers(1, "a", false, true);
    assert!(!desk.told_server("never"));
    assert_eq!(desk.asked(), [2]);
}

#[test]
fn one_who_is_asked_may_say_that_nobody_is_to_take_it() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.connect(2);
    desk.offer("a");
    desk.answers(1, "a", false, true);
    assert!(desk.told_server("never"));
    assert_eq!(
        desk.ended(),
        Some((CallOutcome::Completed, "worker: not wanted"))
    );
}

#[test]
fn a_library_that_has_spoken_is_not_taken_for_mute() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    let (worker, body) = (WorkerKey(1), bytes("runs"));
    desk.step(Event::JobUpdate {
        worker,
        job: job("a"),
        ended_well: None,
        body,
    });
    // Another worker of its like dies before it has said anything of its job.
    desk.says(1, false, 1.0);
    desk.connect(2);
    desk.begin(2, "b");
    assert!(desk.records[&job("b")].spoken);
    desk.close(2);
    desk.wait(CLAIM_WITHIN);
    assert_eq!(
        desk.ended(),
        Some((CallOutcome::Dropped, "worker: never came back"))
    );

    // One of another library may be mute.
    desk.hello(3, "v1", "1.9.0", false);
    desk.says(3, true, 0.1);
    desk.begin(3, "c");
    desk.close(3);
    desk.wait(CLAIM_WITHIN);
    assert_eq!(desk.ended(), None);
    desk.wait(MUTE_WITHIN);
    assert_eq!(
        desk.ended(),
        Some((CallOutcome::Dropped, "worker: never came back"))
    );
}

#[test]
fn what_is_learnt_of_a_library_counts_for_jobs_that_began_before() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.says(1, false, 1.0);
    desk.connect(2);
    desk.begin(2, "b");
    let (worker, body) = (WorkerKey(2), bytes("runs"));
    desk.step(Event::JobUpdate {
        worker,
        job: job("b"),
        ended_well: None,
        body,
    });
    desk.close(1);
    let job = job("a");
    assert!(desk.did.contains(&Action::Write(Entry::Spoken { job })));
    desk.wait(CLAIM_WITHIN);
    assert!(desk.ended().is_some());
}

#[test]
fn a_last_word_alone_does_not_mean_that_a_library_speaks() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    desk.ends(1, "a");
    desk.says(1, false, 1.0);
    desk.connect(2);
    desk.begin(2, "b");
    desk.close(2);
    desk.wait(CLAIM_WITHIN);
    assert_eq!(desk.ended(), None, "it may be one that claims nothing");
}

#[test]
fn what_a_kicked_worker_had_said_before_it_knew_counts() {
    let mut desk = Desk::open();
    desk.connect(1);
    desk.begin(1, "a");
    let (agent, worker, what) = (agent(), id(1), Steer::Kick);
    desk.step(Event::Steer {
        agent,
        worker,
        what,
    });
    desk.ends(1, "a");
    assert_eq!(
        desk.ended(),
        Some((CallOutcome::Completed, "worker: success"))
    );
    desk.close(1);
    assert!(!desk.d.is_kicked(WorkerKey(1)), "nothing of it is kept");
}
