//! The platform: starts workers, keeps them, stops them when told, and loses them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use segue_core::names::{ReleaseId, WorkerId};
use segue_core::release::Release;
use segue_core::rollout::{Event, Input, Want};

use segue_core::spec::Policy;

use super::faults::Mutant;
use super::scenario::Quality;
use super::world::{Next, World};

/// Who runs the workers.
#[derive(Debug, Default)]
pub(crate) struct Platform {
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    /// The journal position of the controller that was obeyed last. One that knows less was
    /// replaced and is not obeyed.
    pub(crate) fence: usize,
    wants: BTreeMap<ReleaseId, (Release, Want)>,
    started: u64,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) release: ReleaseId,
    pub(crate) life: Life,
    pub(crate) addr: SocketAddr,
    pub(crate) capacity: u32,
    /// Calls connected to it.
    pub(crate) calls: BTreeSet<u64>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Starting,
    Ready,
    Stopping,
    Gone,
}

impl World {
    /// One effect about workers, on the word of a controller that knows `fence` facts.
    pub(crate) fn want_workers(&mut self, fence: usize, release: &Release, want: Want) {
        if fence < self.platform.fence && !self.is_mutant(Mutant::PlatformFenceOff) {
            self.coverage.hit("fault", "zombie fenced by the platform");
            return;
        }
        self.platform.fence = self.platform.fence.max(fence);
        self.no_worker_before_its_hook(fence, release.id, want);
        self.platform
            .wants
            .insert(release.id, (release.clone(), want));
        match want {
            Want::Run(count) => self.run_workers(release, count),
            Want::Keep => {}
            Want::Stop => self.stop_workers(release.id),
        }
    }

    fn run_workers(&mut self, release: &Release, count: u32) {
        let up = self
            .platform
            .workers
            .values()
            .filter(|w| w.release == release.id)
            .filter(|w| matches!(w.life, Life::Starting | Life::Ready))
            .count();
        for _ in up..count as usize {
            self.start_worker(release);
        }
    }

    fn start_worker(&mut self, release: &Release) {
        self.a_contract_runs_last(Some(release.id));
        self.platform.started += 1;
        let number = self.platform.started;
        let id: WorkerId = format!("w{number}").parse().expect("a good name");
        let port = u16::try_from(1_000 + number % 60_000).expect("a port");
        let worker = Worker {
            release: release.id,
            life: Life::Starting,
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            capacity: release.capacity,
            calls: BTreeSet::new(),
        };
        self.platform.workers.insert(id.clone(), worker);
        let never = self.scenario.quality[&release.id] == Quality::NeverReady;
        if !never || self.rng.chance(300) {
            let delay = self.rng.between(50, 3_000);
            self.after(delay, Next::WorkerUp(id));
        }
    }

    pub(crate) fn worker_up(&mut self, id: &WorkerId) {
        let Some(worker) = self.platform.workers.get_mut(id) else {
            return;
        };
        if worker.life != Life::Starting {
            return;
        }
        worker.life = Life::Ready;
        if self.scenario.quality[&worker.release] == Quality::CrashLoop {
            let delay = self.rng.between(1_000, 15_000);
            self.after(delay, Next::WorkerDies(id.clone()));
        }
        self.tell(self.ready_word(id));
    }

    fn ready_word(&self, id: &WorkerId) -> Input {
        let worker = &self.platform.workers[id];
        Input::noticed(Event::WorkerReady {
            worker: id.clone(),
            release: worker.release,
            addr: worker.addr,
            capacity: worker.capacity,
            health_path: None,
            barred: None,
        })
    }

    /// Stops a release's workers: what no call may suffer from.
    fn stop_workers(&mut self, release: ReleaseId) {
        let ids: Vec<WorkerId> = self
            .platform
            .workers
            .iter()
            .filter(|(_, w)| w.release == release)
            .filter(|(_, w)| matches!(w.life, Life::Starting | Life::Ready))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.trace(|| format!("stop {id} of {}", self.label(release)));
            self.i1_no_live_call_ended_by_us(&id);
            self.i8_stopped_only_when_empty(release);
            let worker = self.platform.workers.get_mut(&id).expect("listed above");
            worker.life = Life::Stopping;
            let delay = self.rng.between(10, 3_000);
            self.after(delay, Next::WorkerDies(id));
        }
    }

    pub(crate) fn worker_dies(&mut self, id: &WorkerId) {
        let Some(worker) = self.platform.workers.get_mut(id) else {
            return;
        };
        if worker.life == Life::Gone {
            return;
        }
        self.i1_no_live_call_ended_by_stopping(id);
        let worker = self.platform.workers.get_mut(id).expect("found above");
        worker.life = Life::Gone;
        let release = worker.release;
        let calls = std::mem::take(&mut worker.calls);
        self.trace(|| format!("{id} of {} dies", self.label(release)));
        for call in calls {
            self.coverage.hit("call", "lost with worker");
            self.disconnected(call, true);
        }
        self.tell(gone_word(id));
        // The platform starts another one if that is what is wanted of the release.
        if let Some((release, Want::Run(count))) = self.platform.wants.get(&release).cloned() {
            self.run_workers(&release, count);
        }
    }

    pub(crate) fn kill_some_worker(&mut self) {
        let ready: Vec<WorkerId> = self
            .platform
            .workers
            .iter()
            .filter(|(_, w)| w.life == Life::Ready)
            .map(|(id, _)| id.clone())
            .collect();
        if !ready.is_empty() {
            let id = self.rng.pick(&ready).clone();
            self.coverage.hit("fault", "worker killed");
            self.worker_dies(&id);
        }
    }

    /// Word to the controller of this moment. It lives in the same process: a word may be lost
    /// with it, and is then said again by [`relist`](Self::relist).
    fn tell(&mut self, input: Input) {
        let life = self.lives;
        if self.rng.chance(self.faults.message_lost) {
            self.coverage.hit("fault", "message lost");
            return;
        }
        self.after(
            1,
            Next::Word {
                life,
                input: Box::new(input),
            },
        );
    }

    /// Says again what is there and what is not.
    pub(crate) fn relist(&mut self, life: u64) {
        let Some(controller) = self.active.as_ref().filter(|c| c.life == life) else {
            return;
        };
        let gone: Vec<Input> = controller
            .agent
            .workers
            .keys()
            .filter(|id| !self.is_up(id))
            .map(gone_word)
            .collect();
        let ready = self
            .platform
            .workers
            .iter()
            .filter(|(_, w)| w.life == Life::Ready)
            .map(|(id, _)| self.ready_word(id));
        let words: Vec<Input> = gone.into_iter().chain(ready).collect();
        for input in words {
            self.word(life, &input);
        }
        self.reconcile(life);
        self.after(1_000, Next::Poll { life, round: 1 });
    }

    /// Leases run out without a word, so the driver looks once a second.
    pub(crate) fn poll(&mut self, life: u64, round: u32) {
        if self.active.as_ref().is_none_or(|c| c.life != life) {
            return;
        }
        if self.truth.agent.policy == Policy::default() {
            self.configure();
        }
        self.word(life, &Input::noticed(Event::Tick));
        let next = if round.is_multiple_of(4) {
            Next::Relist { life }
        } else {
            let round = round + 1;
            Next::Poll { life, round }
        };
        self.after(1_000, next);
    }

    pub(crate) fn is_up(&self, id: &WorkerId) -> bool {
        self.platform
            .workers
            .get(id)
            .is_some_and(|w| w.life == Life::Ready)
    }
}

fn gone_word(id: &WorkerId) -> Input {
    Input::noticed(Event::WorkerGone {
        worker: id.clone(),
        why: "it exited".to_owned(),
    })
}
