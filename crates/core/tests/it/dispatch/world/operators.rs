//! What operators and memberships say of workers, and what must follow.

use segue_core::dispatch::{Event, WorkerKey};
use segue_core::names::{CallId, WorkerId};
use segue_core::plane::{DrainedBy, Steer};
use segue_core::split::Split;
use segue_core::table::Epoch;

use super::{Happens, World};
use crate::dispatch::process::Manner;

impl World {
    pub(super) fn operate(&mut self, index: usize) {
        let what = *self
            .rng
            .pick(&[Steer::Drain, Steer::Undrain, Steer::Undrain, Steer::Kick]);
        if let Some(worker) = self.processes[index].connection {
            self.steer(worker, what);
        }
    }

    pub(super) fn steer(&mut self, worker: WorkerKey, what: Steer) {
        let (agent, worker) = (self.agent.clone(), id(worker));
        self.step(Event::Steer {
            agent,
            worker,
            what,
        });
    }

    /// What an operator says counts for the process, whatever its connection is called.
    pub(super) fn steered(&mut self, worker: &WorkerId, what: Steer) {
        let meant = self.views.iter_mut().find(|(key, _)| id(**key) == *worker);
        let Some((_, view)) = meant else {
            return;
        };
        let process = &mut self.processes[view.process];
        if what == Steer::Undrain {
            view.drains.remove(&DrainedBy::Operator);
            process.order(false);
        } else {
            view.drains.insert(DrainedBy::Operator);
            process.order(process.manner != Manner::Mute);
        }
    }

    /// Its connection is closed, and it comes back, as real ones do at once.
    pub(super) fn kicked(&mut self, worker: WorkerKey) {
        self.count("kicked");
        let view = self.views.remove(&worker).expect("it was connected");
        let process = &mut self.processes[view.process];
        // It may have left by itself, with its word still under way.
        if process.connection == Some(worker) {
            process.connection = None;
            let wait = *self.rng.pick(&[2, 2, 2_000]);
            self.after(wait, Happens::Connects(view.process));
        }
        self.tell(1, Event::Closed { worker, code: None });
    }

    /// By one of its jobs a worker is known again, and what was said against it.
    pub(super) fn known_again(&mut self, worker: WorkerKey, jobs: &[CallId]) {
        let Some(view) = self.views.get_mut(&worker) else {
            return;
        };
        let known = jobs.iter().filter_map(|job| self.durable.get(job));
        let mut is_known = false;
        for record in known {
            is_known = true;
            for by in [DrainedBy::Worker, DrainedBy::Operator] {
                if record.drains.has(by) {
                    view.drains.insert(by);
                }
            }
        }
        let again = view.drains.contains(&DrainedBy::Operator);
        let process = &mut self.processes[view.process];
        let is_forgotten = process.is_ordered() && is_known && !again;
        assert!(!is_forgotten, "{worker:?}: an operator drained it");
        process.order(again);
        if again {
            self.count("drained again");
        }
    }

    /// A manifest leaves a worker out, or admits it again.
    pub(super) fn admit_again(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let (barred, by) = (!process.is_barred(), DrainedBy::Membership);
        if barred {
            process.against.insert(by);
        } else {
            process.against.remove(&by);
        }
        if let Some(worker) = process.connection {
            self.step(if barred {
                Event::Drain { worker, by }
            } else {
                Event::Undrain { worker, by }
            });
        }
    }

    /// A policy ends jobs; some of their workers are away just now.
    pub(super) fn end_some(&mut self) {
        let release = self.releases[self.rng.index(2)];
        let is_away = |job: &CallId| {
            let its = |p: &super::Process| p.jobs.contains(job) && p.connection.is_none();
            self.durable[job].release == release && self.processes.iter().any(its)
        };
        let mut calls: Vec<CallId> = self.durable.keys().cloned().collect();
        calls.sort_by_key(|job| !is_away(job));
        calls.truncate(2);
        let is_late = self.table.releases[&release].retiring && calls.iter().any(is_away);
        let event = Event::EndCalls {
            agent: self.agent.clone(),
            release,
            epoch: Epoch(0),
            calls,
        };
        self.step(event);
        if is_late {
            self.count("ended while away");
            if self.rng.chance(500) {
                // Before they are back it is rolled back to, so they are to live on.
                self.decide(Split::all(release));
            }
        }
    }
}

pub(super) fn id(worker: WorkerKey) -> WorkerId {
    format!("AW_{}", worker.0).parse().unwrap()
}
