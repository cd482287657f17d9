//! Permits of outbound calls (`may_dial`): a worker that is about to dial asks first.
//!
//! An outbound call comes by no gateway, so nobody would count it, and its release would be taken
//! for empty while it talks. A permit is counted as a call from the moment it is decided until it
//! is over. It is the driver that decides, which also decides about drains: either the release
//! drains first and the permit is refused, or the permit is out first and counts. Written down it
//! is by a task of its own, and whoever asked hears of it after that; what could not be written is
//! taken back.
//!
//! One that names the worker that dials lasts until it is returned or that process is gone. When
//! its time is over it is only overdue: a count that is old is not zero. One that names none ends
//! with its time.

mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, test_kill_process_group};
use segue_core::names::{AgentName, ReleaseId};
use segue_core::time::{Millis, Timestamp};
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Permitted, blocking};
use crate::platform::WorkerStatus;
use crate::secret::random_hex;
use crate::store::{Dialler, Permit, PermitChange, PermitStore, StoreError};

use self::writer::{Undo, WRITES_MAX, Write, write};

/// How long a permit lasts unless it says otherwise: longer than almost any call, and short enough
/// that one whose worker is not known holds no release for a day.
pub(crate) const TTL: Millis = Millis::from_secs(4 * 3_600);
/// The longest; a longer call renews it.
pub(crate) const TTL_MAX: Millis = Millis::from_secs(24 * 3_600);
/// Permits of one agent that may be out at once: more than its workers can hold calls.
pub(crate) const OUT_MAX: usize = 10_000;
/// Random bytes of an id.
const ID_BYTES: usize = 16;

/// Why a permit was not given or renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPermit {
    /// Somebody else dials, or the call is not made.
    #[error("{label} is {state} and takes no new calls")]
    Draining { label: String, state: &'static str },
    /// It was given to another agent, returned, or has ended.
    #[error("there is no such permit, or it has ended")]
    Unknown,
    /// Workers return what they do not need.
    #[error("{OUT_MAX} permits are out")]
    TooMany,
    /// Whoever asks tries again.
    #[error("{WRITES_MAX} permits wait to be written down")]
    Busy,
    /// It could not be written down.
    #[error("the permit could not be written down: {0}")]
    Store(String),
}

/// The permits that are out. The driver and the writer share them, and neither waits while it
/// looks at them.
type Shelf = Arc<Mutex<Book>>;

#[derive(Debug, Default)]
struct Book(BTreeMap<String, Held>);

/// A permit that counts.
#[derive(Debug)]
struct Held {
    permit: Permit,
    /// It was returned, and that is being written down.
    returned: bool,
    /// The process that dials was seen since this controller began. Until then the number may be
    /// that of another.
    seen: bool,
}

impl Book {
    fn lock(shelf: &Shelf) -> MutexGuard<'_, Self> {
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&mut self, change: &PermitChange) {
        match change {
            PermitChange::Put(permit) => {
                if let Some(held) = self.0.get_mut(&permit.id) {
                    held.permit.expires_at = permit.expires_at;
                }
            }
            PermitChange::Remove(id) => {
                self.0.remove(id);
            }
        }
    }

    fn take_back(&mut self, change: &PermitChange, undo: Undo) {
        let (PermitChange::Put(Permit { id, .. }) | PermitChange::Remove(id)) = change;
        match (undo, self.0.get_mut(id)) {
            (Undo::Forget, _) => drop(self.0.remove(id)),
            (Undo::Restore(expires_at), Some(held)) => held.permit.expires_at = expires_at,
            (Undo::Stay, Some(held)) => held.returned = false,
            (_, None) => {}
        }
    }
}

/// Giving, renewing, taking back.
#[derive(Debug)]
pub(crate) struct Permits {
    book: Shelf,
    writes: mpsc::Sender<Write>,
}

/// Who waits for an answer.
pub(crate) type Reply = oneshot::Sender<Permitted>;

impl Permits {
    /// Those of before.
    pub(crate) async fn load(
        store: Arc<dyn PermitStore>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let of = Arc::clone(&store);
        let out = blocking(move || of.load(now)).await?;
        let held = |permit: Permit| {
            let id = permit.id.clone();
            (id, Held::new(permit, false))
        };
        let book = Arc::new(Mutex::new(Book(out.into_iter().map(held).collect())));
        let (writes, to_write) = mpsc::channel(WRITES_MAX);
        // It ends by itself once there is nobody to ask it.
        tokio::spawn(write(store, Arc::clone(&book), to_write));
        Ok(Self { book, writes })
    }

    /// Whether any permit of an agent names its worker: then it matters which ones live.
    pub(crate) fn name_workers(&self, agent: &AgentName) -> bool {
        let book = Book::lock(&self.book);
        let mut held = book.0.values();
        held.any(|held| held.permit.agent == *agent && held.permit.dialler.is_some())
    }

    /// How many are out, by release. Those that are over are dropped.
    pub(crate) fn counts(
        &mut self,
        agent: &AgentName,
        workers: &[WorkerStatus],
        now: Timestamp,
    ) -> BTreeMap<ReleaseId, u64> {
        let mut counts = BTreeMap::new();
        let mut over = Vec::new();
        let mut book = Book::lock(&self.book);
        for (id, held) in &mut book.0 {
            if held.permit.agent != *agent {
                continue;
            }
            if held.is_over(workers, now) {
                over.push(id.clone());
            } else {
                *counts.entry(held.permit.release).or_default() += 1;
            }
        }
        for id in over {
            // Without room it is dropped the next time; it does not count meanwhile.
            let Ok(place) = self.writes.try_reserve() else {
                break;
            };
            book.0.remove(&id);
            place.send(Write {
                change: PermitChange::Remove(id),
                undo: Undo::Stay,
                answer: None,
            });
        }
        counts
    }

    /// Those of an agent, oldest first.
    pub(crate) fn list(&self, agent: &AgentName, now: Timestamp) -> Vec<Permit> {
        let book = Book::lock(&self.book);
        let ours = book.0.values().filter(|held| held.permit.agent == *agent);
        let ours = ours.filter(|held| !held.is_timed_out(now));
        let mut permits: Vec<Permit> = ours.map(|held| held.permit.clone()).collect();
        permits.sort_by(|a, b| (a.granted_at, &a.id).cmp(&(b.granted_at, &b.id)));
        permits
    }

    /// Gives one. It counts from now on, and is durable when `reply` hears of it.
    pub(crate) fn grant(
        &mut self,
        (agent, release, label): (&AgentName, ReleaseId, String),
        (call, holder, dialler): (Option<String>, String, Option<Dialler>),
        (now, ttl): (Timestamp, Millis),
        reply: Reply,
    ) {
        let mut book = Book::lock(&self.book);
        let ours = book.0.values().filter(|held| held.permit.agent == *agent);
        if ours.count() >= OUT_MAX {
            return refuse(reply, NoPermit::TooMany);
        }
        let Ok(place) = self.writes.try_reserve() else {
            return refuse(reply, NoPermit::Busy);
        };
        let id = match random_hex(ID_BYTES) {
            Ok(id) => id,
            Err(error) => return refuse(reply, NoPermit::Store(error.to_string())),
        };
        let permit = Permit {
            call: call.unwrap_or_else(|| format!("out-{id}")),
            id: id.clone(),
            agent: agent.clone(),
            release,
            holder,
            dialler,
            granted_at: now,
            expires_at: now + ttl,
        };
        book.0.insert(id, Held::new(permit.clone(), true));
        place.send(Write {
            change: PermitChange::Put(permit.clone()),
            undo: Undo::Forget,
            answer: Some((reply, Ok(vec![(permit, label)]))),
        });
    }

    /// Makes one last from now on, also while its release drains: its call goes on.
    pub(crate) fn renew(
        &mut self,
        (agent, id): (&AgentName, &str),
        label: impl Fn(ReleaseId) -> String,
        (now, ttl): (Timestamp, Millis),
        reply: Reply,
    ) {
        let mut book = Book::lock(&self.book);
        let Some(held) = book.good(agent, id, now) else {
            return refuse(reply, NoPermit::Unknown);
        };
        if held.returned {
            return refuse(reply, NoPermit::Unknown);
        }
        let Ok(place) = self.writes.try_reserve() else {
            return refuse(reply, NoPermit::Busy);
        };
        let was = held.permit.expires_at;
        let mut permit = held.permit.clone();
        permit.expires_at = now + ttl;
        held.permit.expires_at = was.max(permit.expires_at);
        let label = label(permit.release);
        place.send(Write {
            change: PermitChange::Put(permit.clone()),
            undo: Undo::Restore(was),
            answer: Some((reply, Ok(vec![(permit, label)]))),
        });
    }

    /// Takes one back: its call is over. It counts until that is written down.
    pub(crate) fn end(&mut self, agent: &AgentName, id: &str, now: Timestamp, reply: Reply) {
        let mut book = Book::lock(&self.book);
        let Some(held) = book.good(agent, id, now) else {
            return refuse(reply, NoPermit::Unknown);
        };
        let Ok(place) = self.writes.try_reserve() else {
            return refuse(reply, NoPermit::Busy);
        };
        held.returned = true;
        place.send(Write {
            change: PermitChange::Remove(id.to_owned()),
            undo: Undo::Stay,
            answer: Some((reply, Ok(Vec::new()))),
        });
    }
}

impl Book {
    fn good(&mut self, agent: &AgentName, id: &str, now: Timestamp) -> Option<&mut Held> {
        let held = self.0.get_mut(id)?;
        (held.permit.agent == *agent && !held.is_timed_out(now)).then_some(held)
    }
}

impl Held {
    fn new(permit: Permit, seen: bool) -> Self {
        let returned = false;
        Self {
            permit,
            returned,
            seen,
        }
    }

    /// Nobody can tell whether who dialled still talks; time does.
    fn is_timed_out(&self, now: Timestamp) -> bool {
        self.permit.dialler.is_none() && self.permit.is_overdue(now)
    }

    /// A launcher that ended may have left the process that talks behind, in its group.
    fn is_over(&mut self, workers: &[WorkerStatus], now: Timestamp) -> bool {
        let Some(dialler) = &self.permit.dialler else {
            return self.permit.is_overdue(now);
        };
        let is = |status: &WorkerStatus| {
            status.worker == dialler.worker && status.pid == Some(dialler.pid)
        };
        self.seen |= workers.iter().any(is);
        !(self.seen && has_group(dialler.pid))
    }
}

fn has_group(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // One that may not be asked is there.
    pid.is_some_and(|pid| test_kill_process_group(pid) != Err(rustix::io::Errno::SRCH))
}

fn refuse(reply: Reply, why: NoPermit) {
    // Whoever asked may have gone.
    let _ = reply.send(Err(why.into()));
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::platform::WorkerState;
    use crate::store::SqlitePermits;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("segue-permits-{name}-{}", std::process::id());
            let place = Self(std::env::temp_dir().join(name));
            std::fs::create_dir_all(&place.0).unwrap();
            place
        }

        fn store(&self) -> Arc<SqlitePermits> {
            Arc::new(SqlitePermits::open(&self.0.join("control.db")).unwrap())
        }

        async fn permits(&self, seconds: u64) -> Permits {
            let now = Timestamp(seconds * 1_000);
            Permits::load(self.store(), now).await.unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn desk() -> AgentName {
        "desk".parse().unwrap()
    }

    fn release() -> ReleaseId {
        ReleaseId::of(b"one")
    }

    /// A minute from then on.
    fn at(seconds: u64) -> (Timestamp, Millis) {
        (Timestamp(seconds * 1_000), Millis::from_secs(60))
    }

    fn dialler(pid: u32) -> Dialler {
        Dialler {
            worker: "w-1".parse().unwrap(),
            pid,
        }
    }

    fn status(dialler: &Dialler) -> WorkerStatus {
        WorkerStatus {
            worker: dialler.worker.clone(),
            release: release(),
            state: WorkerState::Ready,
            addr: ([127, 0, 0, 1], 1).into(),
            capacity: 1,
            health_path: None,
            pid: Some(dialler.pid),
            adopted: false,
            restarts: 0,
            log: PathBuf::new(),
            why: String::new(),
            ended: None,
        }
    }

    impl Permits {
        fn begin_grant(
            &mut self,
            dialler: Option<Dialler>,
            seconds: u64,
        ) -> oneshot::Receiver<Permitted> {
            let (reply, answer) = oneshot::channel();
            let of = (&desk(), release(), "v1".to_owned());
            let who = (Some("CA1".to_owned()), "w1".to_owned(), dialler);
            self.grant(of, who, at(seconds), reply);
            answer
        }

        async fn granted(&mut self, dialler: Option<Dialler>, seconds: u64) -> Permit {
            let answer = self.begin_grant(dialler, seconds).await.unwrap().unwrap();
            answer[0].0.clone()
        }

        async fn renewed(&mut self, id: &str, seconds: u64) -> Permitted {
            let (reply, answer) = oneshot::channel();
            self.renew((&desk(), id), |_| "v1".to_owned(), at(seconds), reply);
            answer.await.unwrap()
        }

        async fn ended(&mut self, id: &str, seconds: u64) -> Permitted {
            let (reply, answer) = oneshot::channel();
            self.end(&desk(), id, at(seconds).0, reply);
            answer.await.unwrap()
        }

        fn count(&mut self, workers: &[WorkerStatus], seconds: u64) -> u64 {
            let counts = self.counts(&desk(), workers, at(seconds).0);
            counts.get(&release()).copied().unwrap_or(0)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_worker_they_count_until_their_time_is_over_and_survive_us() {
        let place = Place::new("time");
        let mut permits = place.permits(0).await;
        let first = permits.granted(None, 0).await;
        let second = permits.granted(None, 10).await;
        assert_eq!(first.expires_at, Timestamp(60_000));
        assert_ne!(first.id, second.id);
        assert_eq!(permits.count(&[], 59), 2);
        let other = "other".parse().unwrap();
        assert!(permits.counts(&other, &[], Timestamp(0)).is_empty());

        // The next controller knows them too.
        let mut permits = place.permits(20).await;
        let both = [first.clone(), second.clone()];
        assert_eq!(permits.list(&desk(), Timestamp(20_000)), both);
        let renewed = permits.renewed(&first.id, 50).await.unwrap();
        assert_eq!(renewed[0].0.expires_at, Timestamp(110_000));
        assert_eq!(permits.count(&[], 69), 2);
        assert_eq!(permits.count(&[], 70), 1);
        assert!(permits.renewed(&second.id, 71).await.is_err(), "too late");
        permits.ended(&first.id, 72).await.unwrap();
        assert!(permits.ended(&first.id, 72).await.is_err(), "it is over");
        assert!(permits.renewed(&first.id, 72).await.is_err());
        assert_eq!(permits.count(&[], 72), 0);
        // What is written down in order is: the first was removed, and the second before it.
        assert_eq!(place.store().load(Timestamp(0)).unwrap(), []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_a_worker_they_count_until_its_process_is_gone() {
        let place = Place::new("worker");
        let mut command = std::process::Command::new("sleep");
        let command = std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.arg("600").spawn().unwrap();
        let dialler = dialler(process.id());
        let runs = [status(&dialler)];
        let mut permits = place.permits(0).await;
        let permit = permits.granted(Some(dialler.clone()), 0).await;
        assert_eq!(permits.count(&runs, 100_000), 1, "long overdue");
        assert!(permit.is_overdue(at(100_000).0));
        let listed = permits.list(&desk(), at(100_000).0);
        assert_eq!(listed, std::slice::from_ref(&permit));
        let renewed = permits.renewed(&permit.id, 100_000).await.unwrap();
        assert!(!renewed[0].0.is_overdue(at(100_001).0));
        // So it is for the next controller; it goes by the process that it found.
        let mut next = place.permits(200_000).await;
        assert_eq!(next.count(&runs, 200_000), 1);
        // The worker is another process now; its group holds what may still talk.
        let another = [status(&Dialler {
            pid: 1,
            ..dialler.clone()
        })];
        assert_eq!(next.count(&another, 200_000), 1);
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(next.count(&another, 200_000), 0, "nobody dials any more");
        assert_eq!(next.list(&desk(), at(200_000).0), []);
        // After a restart of the machine a number is anybody's.
        let mut later = place.permits(200_001).await;
        let ours = Dialler {
            pid: std::process::id(),
            ..dialler
        };
        later.granted(Some(ours), 200_001).await;
        drop(later);
        let mut later = place.permits(200_002).await;
        assert_eq!(later.count(&another, 200_002), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_counts_before_it_is_written_and_no_more_when_it_cannot_be() {
        let place = Place::new("locked");
        let mut permits = place.permits(0).await;
        let kept = permits.granted(None, 0).await;
        let locker = rusqlite::Connection::open(place.0.join("control.db")).unwrap();
        locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let mut answers = Vec::new();
        for number in 1..=WRITES_MAX as u64 {
            answers.push(permits.begin_grant(None, 1));
            assert_eq!(permits.count(&[], 1), 1 + number, "at once");
        }
        let ended = permits.ended(&kept.id, 1);
        for answer in answers {
            let answer = answer.await.unwrap();
            let failed = matches!(
                answer,
                Err(crate::driver::PermitRefused::NoPermit(
                    NoPermit::Store(_) | NoPermit::Busy
                ))
            );
            assert!(failed, "{answer:?}");
        }
        assert!(ended.await.is_err());
        assert_eq!(
            permits.count(&[], 1),
            1,
            "taken back; what was there counts"
        );
        locker.execute_batch("ROLLBACK").unwrap();
        permits.ended(&kept.id, 1).await.unwrap();
        assert_eq!(permits.count(&[], 1), 0);
    }
}
