//! What workers do, and what befalls them and everybody else.

use segue_core::dispatch::{Answer, Event, Hello, LineId, LineKey, WorkerKey, WorkerStatus};
use segue_core::names::CallId;
use segue_core::plane::{DrainedBy, Steer};
use segue_core::split::{Share, Split};

use super::{BUSY_MS, Happens, View, World, body};
use crate::dispatch::process::Manner;

impl World {
    pub(super) fn reaches_worker(&mut self, worker: WorkerKey, body: &str) {
        let found = self
            .processes
            .iter()
            .position(|p| p.alive && p.connection == Some(worker));
        let Some(index) = found else {
            return;
        };
        let (what, job) = body.split_once(':').unwrap();
        let job: CallId = job.parse().unwrap();
        match what {
            "offer" => self.asked(index, worker, job),
            "assign" => {
                let promised = self.processes[index].promised.remove(&job);
                let promised = promised.expect("a job comes to who promised it");
                if self.now - promised > 7_500 {
                    return;
                }
                let before = self.holder.insert(job.clone(), index);
                assert_eq!(before, None, "{job} has two workers");
                self.count("begun");
                self.processes[index].jobs.insert(job.clone());
                self.rooms.joins(&job);
                self.says_job(index, &job, None);
                let ends = self.rng.heavy(4_000, 50_000);
                self.after(
                    ends,
                    Happens::JobEnds {
                        process: index,
                        job,
                    },
                );
            }
            _ => self.job_ends(index, &job),
        }
    }

    pub(super) fn asked(&mut self, index: usize, worker: WorkerKey, job: CallId) {
        let mut wait = self.processes[index].latency;
        if self.processes[index].manner == Manner::Slow && self.rng.chance(500) {
            if self.rng.chance(500) {
                return;
            }
            wait += self.rng.between(500, 2_500);
        }
        let process = &mut self.processes[index];
        let available = process.takes();
        let identity = process.identity(index, &job);
        // Some say that nobody is to have it, in time or too late, and also while they drain.
        let terminate = self.rng.chance(40);
        let available = available && !terminate;
        let word = match (terminate, available) {
            (true, _) => "never",
            (false, true) => "yes",
            (false, false) => "no",
        };
        if available {
            let process = &mut self.processes[index];
            process.promised.insert(job.clone(), self.now);
        }
        let answer = Answer {
            body: body(&format!("{word}:{job}:{}", worker.0)),
            job,
            available,
            terminate,
            identity,
        };
        self.tell(wait, Event::Answered { worker, answer });
        self.says_status(index, false);
    }

    pub(super) fn says_job(&mut self, index: usize, job: &CallId, ended_well: Option<bool>) {
        if self.processes[index].manner == Manner::Mute {
            if ended_well.is_some() {
                self.leaves(job);
            }
            return;
        }
        let process = &mut self.processes[index];
        let Some(worker) = process.connection else {
            if ended_well.is_some() {
                process.unsaid.push(job.clone());
            }
            return;
        };
        let (job, latency) = (job.clone(), process.latency);
        let event = Event::JobUpdate {
            worker,
            job,
            ended_well,
            body: body("update"),
        };
        self.tell(latency, event);
    }

    /// The agent has left its room: the server ends the job, unless it has forgotten it.
    pub(super) fn leaves(&mut self, job: &CallId) {
        if !self.rng.chance(100) {
            let wait = self.rng.between(1, 300);
            let (job, body) = (job.clone(), body(&format!("end:{job}")));
            self.tell(wait, Event::Terminated { job, body });
        }
    }

    pub(super) fn says_status(&mut self, index: usize, again: bool) {
        let process = &self.processes[index];
        if !process.alive {
            return;
        }
        if let Some(worker) = process.connection {
            let (available, load) = process.status();
            let status = WorkerStatus {
                available: Some(available),
                load,
                draining: false,
            };
            self.tell(process.latency, Event::Status { worker, status });
        }
        if again {
            self.after(2_500, Happens::Status(index));
        }
    }

    pub(super) fn job_ends(&mut self, index: usize, job: &CallId) {
        if !self.processes[index].alive || !self.processes[index].jobs.remove(job) {
            return;
        }
        if !self.processes[index].cut {
            self.rooms.leaves(job);
        }
        self.says_job(index, job, Some(true));
        let process = &mut self.processes[index];
        if process.draining && process.jobs.is_empty() {
            process.alive = false;
            if let Some(worker) = process.connection.take() {
                let (latency, code) = (process.latency, Some(1_000));
                self.tell(latency, Event::Closed { worker, code });
            }
        }
    }

    pub(super) fn connects(&mut self, index: usize) {
        let process = &self.processes[index];
        if !process.alive || process.cut || process.connection.is_some() {
            return;
        }
        if self.d.is_none() {
            self.after(500, Happens::Connects(index));
            return;
        }
        self.keys += 1;
        let key = WorkerKey(self.keys);
        let process = &mut self.processes[index];
        process.connection = Some(key);
        let release = self.releases[process.release];
        let (latency, jobs, barred) = (process.latency, process.jobs.clone(), process.is_barred());
        // Nobody knows again who names no jobs.
        let is_known = !jobs.is_empty() && process.manner != Manner::Mute;
        process.order(process.is_ordered() && is_known);
        let unsaid = std::mem::take(&mut process.unsaid);
        let view = View {
            process: index,
            release,
            available: false,
            drains: barred
                .then_some(DrainedBy::Membership)
                .into_iter()
                .collect(),
            refused: false,
        };
        self.views.insert(key, view);
        let hello = Hello {
            worker: key,
            id: format!("AW_{}", key.0).parse().unwrap(),
            release,
            line: LineId {
                agent: self.agent.clone(),
                agent_name: "demo".to_owned(),
                kind: 0,
                namespace: String::new(),
                permissions: None,
            },
            draining: barred,
            library: self.processes[index].library().to_owned(),
            from: None,
        };
        self.step(Event::Registered(Box::new(hello)));
        let claims = self.processes[index].manner != Manner::Mute;
        if claims && !jobs.is_empty() {
            let jobs = jobs.into_iter().collect();
            self.tell(latency, Event::Claimed { worker: key, jobs });
        }
        self.says_status(index, false);
        for job in unsaid {
            self.says_job(index, &job, Some(true));
        }
        self.after(2_500, Happens::Status(index));
    }

    pub(super) fn trouble(&mut self) {
        let index = self.rng.index(self.processes.len());
        let release = self.processes[index].release;
        match self.rng.below(20) {
            0 if self.d.is_some() => self.crash(),
            1 => {
                let lines: Vec<LineKey> = self.lines.keys().copied().collect();
                for line in lines {
                    self.count("server away");
                    self.lines.insert(line, None);
                    self.step(Event::LineDown { line });
                    let life = self.life;
                    let wait = self.rng.between(5, 3_000);
                    self.after(wait, Happens::LineUp { life, line });
                }
            }
            2 => self.kill(index),
            3..6 => {
                // Its socket breaks.
                if let Some(worker) = self.processes[index].connection.take() {
                    let code = None;
                    self.tell(0, Event::Closed { worker, code });
                    let wait = *self.rng.pick(&[2, 2, 2_000, 6_000]);
                    self.after(wait, Happens::Connects(index));
                }
            }
            6 if self.processes[index].alive && !self.processes[index].draining => {
                self.processes[index].draining = true;
                if let (Manner::Liar, Some(worker)) = (
                    self.processes[index].manner,
                    self.processes[index].connection,
                ) {
                    self.steer(worker, Steer::Drain);
                }
                self.says_status(index, false);
                let wait = self.rng.between(100, 5_000);
                self.after(wait, Happens::Replacement(release));
                if self.processes[index].jobs.is_empty() {
                    self.kill(index);
                }
            }
            7 => {
                // It drains, and leaves before its jobs have said their last word.
                let process = &mut self.processes[index];
                if process.alive && process.manner == Manner::Good && !process.draining {
                    process.draining = true;
                    self.says_status(index, false);
                    let process = &mut self.processes[index];
                    process.alive = false;
                    self.killed.extend(process.jobs.iter().cloned());
                    self.notices(index);
                    let process = &mut self.processes[index];
                    let latency = process.latency;
                    if let Some(worker) = process.connection.take() {
                        let code = Some(1_000);
                        self.tell(latency, Event::Closed { worker, code });
                    }
                    self.after(500, Happens::Replacement(release));
                }
            }
            8 => self.end_some(),
            9..12 => self.operate(index),
            12 | 13 => self.admit_again(index),
            17.. => self.cut(index),
            _ => {
                let [v1, v2] = self.releases;
                let split = match self.rng.below(4) {
                    0 => Split::all(v1),
                    1 => Split::all(v2),
                    2 => Split::ramp(v2, Share(1_000), v1),
                    _ => Split::ramp(v1, Share(5_000), v2),
                };
                self.decide(split);
            }
        }
        if self.now < BUSY_MS {
            let wait = self.rng.heavy(1_500, 20_000);
            self.after(wait, Happens::Trouble);
        }
    }

    /// The next table.
    pub(super) fn decide(&mut self, split: Split) {
        self.table.epoch = self.table.epoch.next();
        self.table.split = split;
        for (release, route) in &mut self.table.releases {
            let share = self.table.split.share(*release);
            route.takes_new_calls = share > Share::NONE;
            route.retiring = !route.takes_new_calls;
        }
        self.step(Event::Table(Box::new(self.table.clone())));
    }

    pub(super) fn kill(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if !process.alive {
            return;
        }
        process.alive = false;
        self.killed.extend(process.jobs.iter().cloned());
        self.killed.extend(process.promised.keys().cloned());
        self.killed.extend(process.unsaid.iter().cloned());
        let release = process.release;
        if let Some(worker) = process.connection.take() {
            self.tell(0, Event::Closed { worker, code: None });
        }
        self.count("killed");
        self.notices(index);
        let wait = self.rng.between(100, 4_000);
        self.after(wait, Happens::Replacement(release));
    }
}
