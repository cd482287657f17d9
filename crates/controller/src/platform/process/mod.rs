//! Workers and components as processes of this machine. They outlive the controller: each has its
//! own process group, writes to a file, and is found again by its record.

mod adopt;
mod detached;
mod left;
mod member;
mod port;
mod proc;
mod ready;
mod remains;
mod spawn;
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::release::Release;
use segue_core::rollout::Want;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::left::Left;
use self::member::{Member, Mode, Note, Started, Status};
use self::port::Ports;
use self::stack::{Role, Stack};
use super::{ComponentStatus, Platform, WorkerStatus, health_path};
use crate::copies::Copies;
use crate::state::{StateDir, short_label};

pub(crate) use self::remains::Remains;
pub use self::remains::stop_recorded;
pub use detached::{Exit, Handle, MARKER, Record, Spawn};
pub use rustix::process::Signal;

/// Workers of one release; each is a process with a port of its own.
pub const WORKERS_PER_RELEASE_MAX: u32 = 1_000;

/// Digits of the digest in the name of a worker, so that two releases of one label differ.
const DIGITS: usize = 6;

/// Runs workers and components as processes of this machine.
#[derive(Debug)]
pub struct ProcessPlatform {
    state: StateDir,
    copies: Copies,
    ports: Ports,
    bell: Arc<Notify>,
    told: Told,
    /// What runs and is not attended to.
    left: Arc<Left>,
    inner: Mutex<Inner>,
}

/// Variables that every process gets, as they are when it is started.
type Told = Arc<Mutex<Option<Box<dyn Tell>>>>;

/// What processes are told beside what the platform knows.
pub trait Tell: std::fmt::Debug + Send {
    /// Variables for a process of an agent.
    fn variables(&self, agent: &AgentName) -> BTreeMap<String, String>;
}

/// A process: agent, release and role. Workers come before components.
type Key = (AgentName, ReleaseId, Role);

#[derive(Debug, Default)]
struct Inner {
    cells: BTreeMap<Key, Cell>,
    /// What the processes of each release share, for as long as it has any.
    stacks: BTreeMap<(AgentName, ReleaseId), Arc<Stack>>,
    /// Ports of workers that had ended before this controller began.
    former: BTreeMap<Key, u16>,
    /// Ended with the platform; the processes are not.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Cell {
    release: Release,
    name: String,
    status: Arc<Mutex<Status>>,
    mode: watch::Sender<Mode>,
}

impl Cell {
    fn status(&self) -> Status {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many calls it may hold is no part of what it was started with: it follows at once.
    /// Answers whether it was another number.
    fn set_capacity(&self, capacity: u32) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut status.capacity, capacity) != capacity
    }

    fn set_mode(&self, mode: Mode) {
        self.mode
            .send_if_modified(|is| std::mem::replace(is, mode) != mode);
    }

    /// One that was stopped is not spoken of any more.
    fn is_over(&self) -> bool {
        *self.mode.borrow() == Mode::Stop && self.mode.is_closed()
    }
}

impl ProcessPlatform {
    /// A platform that runs nothing yet. It rings `bell` when something about a process changed.
    pub fn new(state: StateDir, copies: Copies, bell: Arc<Notify>) -> Self {
        Self {
            state,
            copies,
            ports: Ports::default(),
            left: Arc::new(Left::new(Arc::clone(&bell))),
            bell,
            told: Told::default(),
            inner: Mutex::default(),
        }
    }

    /// Tells this to every process that is started from now on.
    pub fn tell(&self, what: Box<dyn Tell>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the processes of a release share.
    fn stack(
        &self,
        inner: &mut Inner,
        agent: &AgentName,
        release: &Release,
    ) -> io::Result<Arc<Stack>> {
        let of = (agent.clone(), release.id);
        if let Some(stack) = inner.stacks.get(&of) {
            return Ok(Arc::clone(stack));
        }
        let stack = Stack::open(&self.state, agent, release, &self.ports)?;
        inner.stacks.insert(of, Arc::clone(&stack));
        Ok(stack)
    }

    fn add(
        &self,
        inner: &mut Inner,
        stack: Arc<Stack>,
        release: &Release,
        (agent, role): (&AgentName, Role),
        (port, restarts): (u16, u32),
        process: Option<(Handle, Note)>,
    ) {
        let name = name(release, &role);
        let of = (&release.label, release.id);
        let (log, own) = match &role {
            Role::Worker(_) => {
                let worker = worker_id(&name);
                (self.state.worker_log(agent, of, &worker), port)
            }
            Role::Component(component) => {
                let port = stack.port(component).unwrap_or_default();
                (self.state.component_log(agent, of, component), port)
            }
        };
        let mut status = Status::unborn(own, release.capacity, log);
        status.restarts = restarts;
        // An adopted one is left as it is until the driver has said what it wants.
        let first = if process.is_some() {
            Mode::Keep
        } else {
            Mode::Run
        };
        let adopted = process.map(|(process, note)| {
            status.addr.set_port(note.port());
            status.pid = Some(process.pid());
            status.log.clone_from(&process.record().log);
            status.adopted = true;
            // Before anybody is told to stop: those it needs must know of it.
            stack.set_running(&role, true);
            let port = match &role {
                Role::Worker(_) => Some(self.ports.adopt(note.port(), release.id)),
                Role::Component(_) => None,
            };
            Started {
                process,
                number: note.port(),
                port,
                copied: note.is_copied(),
            }
        });
        let (mode, wanted) = watch::channel(first);
        let status = Arc::new(Mutex::new(status));
        let member = Member {
            agent: agent.clone(),
            release: release.clone(),
            role: role.clone(),
            name: name.clone(),
            state: self.state.clone(),
            copies: self.copies.clone(),
            stack,
            former: Some(port).filter(|port| *port != 0),
            status: Arc::clone(&status),
            mode: wanted,
            ports: self.ports.clone(),
            left: Arc::clone(&self.left),
            told: Arc::clone(&self.told),
            bell: Arc::clone(&self.bell),
        };
        let cell = Cell {
            release: release.clone(),
            name,
            status,
            mode,
        };
        inner.cells.insert((agent.clone(), release.id, role), cell);
        inner.tasks.spawn(member.live(adopted));
    }

    /// Starts the processes that a release should have and has not.
    fn fill(&self, inner: &mut Inner, agent: &AgentName, release: &Release, count: u32) {
        let stack = match self.stack(inner, agent, release) {
            Ok(stack) => stack,
            Err(error) => {
                // It is asked for again in a moment.
                tracing::error!(%agent, release = %release.label, %error, "the ports of its components could not be written down");
                return;
            }
        };
        let components = stack.order.clone().into_iter().map(Role::Component);
        let workers = (1..=count.min(WORKERS_PER_RELEASE_MAX)).map(Role::Worker);
        for role in components.chain(workers) {
            let key = (agent.clone(), release.id, role.clone());
            let runs = |cell: &Cell| !cell.mode.is_closed();
            if inner.cells.get(&key).is_some_and(runs) {
                continue;
            }
            let before = inner.cells.get(&key).map(Cell::status);
            let was = match before {
                Some(status) => (status.addr.port(), status.restarts),
                None => (inner.former.remove(&key).unwrap_or(0), 0),
            };
            self.add(inner, Arc::clone(&stack), release, (agent, role), was, None);
        }
    }
}

impl Platform for ProcessPlatform {
    fn reconcile(&self, agent: &AgentName, release: &Release, want: Want) {
        let mut inner = self.lock();
        inner.sweep();
        let mode = |role: &Role| match (want, role) {
            // Deployed again with fewer workers: the surplus may hold calls, so it runs on.
            (Want::Run(count), Role::Worker(index)) if *index > count => Mode::Keep,
            (Want::Run(_), _) => Mode::Run,
            (Want::Keep, _) => Mode::Keep,
            (Want::Stop, _) => Mode::Stop,
        };
        let of = (agent.clone(), release.id);
        // Those that others need hear of it last: none may end while one that needs it could
        // still be starting.
        let stack = inner.stacks.get(&of).cloned();
        let mut last: Vec<Role> = stack
            .iter()
            .flat_map(|stack| stack.order.clone())
            .map(Role::Component)
            .collect();
        last.reverse();
        let from = (of.0.clone(), of.1, Role::Worker(0));
        let to = (of.0.clone(), of.1, Role::Worker(u32::MAX));
        for ((_, _, role), cell) in inner.cells.range(from..=to) {
            if cell.set_capacity(release.capacity) {
                self.bell.notify_one();
            }
            cell.set_mode(mode(role));
        }
        for role in last {
            let key = (of.0.clone(), of.1, role);
            if let Some(cell) = inner.cells.get(&key) {
                cell.set_mode(mode(&key.2));
            }
        }
        if want == Want::Stop {
            self.left.end(agent, release.id);
        }
        match want {
            Want::Run(count) => self.fill(&mut inner, agent, release, count),
            Want::Stop if !inner.has_cells(&of) && !self.left.releases(agent).contains(&of.1) => {
                if let Some(stack) = inner.stacks.remove(&of) {
                    stack.forget();
                }
            }
            Want::Keep | Want::Stop => {}
        }
    }

    fn workers(&self, agent: &AgentName) -> Vec<WorkerStatus> {
        let mut inner = self.lock();
        inner.sweep();
        let ours = inner.cells.iter().filter(|((of, _, _), _)| of == agent);
        let worker = |((_, release, role), cell): (&Key, &Cell)| {
            let status = cell.status();
            matches!(role, Role::Worker(_)).then(|| WorkerStatus {
                worker: worker_id(&cell.name),
                release: *release,
                state: status.state,
                addr: status.addr,
                capacity: status.capacity,
                health_path: health_path(&cell.release),
                pid: status.pid,
                adopted: status.adopted,
                restarts: status.restarts,
                log: status.log,
                why: status.why,
                ended: status.ended,
            })
        };
        ours.filter_map(worker).collect()
    }

    fn components(&self, agent: &AgentName) -> Vec<ComponentStatus> {
        let mut inner = self.lock();
        inner.sweep();
        let ours = inner.cells.iter().filter(|((of, _, _), _)| of == agent);
        let component = |((_, release, role), cell): (&Key, &Cell)| {
            let Role::Component(component) = role else {
                return None;
            };
            let status = cell.status();
            let is = cell.release.content.components.get(component);
            Some(ComponentStatus {
                component: component.clone(),
                release: *release,
                state: status.state,
                addr: status.addr,
                health_path: is.and_then(|is| is.health_path.clone()),
                pid: status.pid,
                restarts: status.restarts,
                log: status.log,
                why: status.why,
                ended: status.ended,
            })
        };
        ours.filter_map(component).collect()
    }

    fn processes(&self, agent: &AgentName) -> BTreeSet<ReleaseId> {
        let mut inner = self.lock();
        inner.sweep();
        // One whose life has ended starts no process any more.
        let living = inner
            .cells
            .iter()
            .filter(|(_, cell)| !cell.mode.is_closed());
        let ours = living.filter(|((of, _, _), _)| of == agent);
        let ours: BTreeSet<_> = ours.map(|((_, release, _), _)| *release).collect();
        // Looked at last: one that has just ended is noted before its life ends.
        ours.into_iter().chain(self.left.releases(agent)).collect()
    }

    fn strays(&self, agent: &AgentName) -> u32 {
        self.left.strays(agent)
    }
}

impl Inner {
    /// Forgets what does not run any more and is not to.
    fn sweep(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.cells.retain(|_, cell| !cell.is_over());
    }

    fn has_cells(&self, (agent, release): &(AgentName, ReleaseId)) -> bool {
        let of = |(a, r, _): &Key| a == agent && r == release;
        self.cells.keys().any(of)
    }
}

/// What a process of a release is called.
fn name(release: &Release, role: &Role) -> String {
    match role {
        Role::Worker(index) => {
            let digits = &release.id.short()[..DIGITS];
            format!("{}-{digits}-{index}", short_label(&release.label))
        }
        Role::Component(name) => name.to_string(),
    }
}

fn worker_id(name: &str) -> WorkerId {
    name.parse().expect("a label with a suffix is a name")
}

#[cfg(test)]
mod tests;
