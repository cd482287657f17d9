//! A gateway dies under calls that a keeper holds: they go on in the next one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_core::presence::AgentPresence;
use segue_gateway::keeper::{Figures, Keeper, census};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Manner, Stream};
use crate::support::controller::Controller;
use crate::support::gateway::{Process, child, config};
use crate::support::table::{release, table};
use crate::support::{Dir, soon, until, ws};

/// Spreads the kills; printed when a test fails.
const SEED: u64 = 0x5E6E;

/// A number from the environment, for a longer run than the suite's.
fn asked(name: &str, usual: usize) -> usize {
    let asked = std::env::var(name).ok();
    asked.map_or(usual, |number| number.parse().expect("a number"))
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    std::fs::create_dir_all(&run).unwrap();
    run.join("keeper.sock")
}

/// What the keeper holds, once that is as wished.
pub(crate) async fn holds(dir: &Path, what: &str, wished: impl Fn(&Figures) -> bool) -> Figures {
    let socket = socket(dir);
    until(what, || census(&socket).ok().filter(&wished)).await
}

/// A keeper in a process of its own.
pub(crate) async fn keeper(dir: &Path) -> Child {
    let process = child("keeper").env("SEGUE_TEST_DIR", dir).spawn().unwrap();
    holds(dir, "a keeper", |_| true).await;
    process
}

/// One that has room for so many descriptors, beside those that every keeper leaves to others.
pub(crate) async fn small_keeper(dir: &Path, descriptors: usize) -> Child {
    let files = 256 + descriptors;
    let mut keeper = child("keeper");
    keeper.env("SEGUE_TEST_FILES", files.to_string());
    let process = keeper.env("SEGUE_TEST_DIR", dir).spawn().unwrap();
    holds(dir, "a keeper", |_| true).await;
    process
}

/// The sockets that a process has open, by the numbers that all who share one see.
fn sockets(process: &Child) -> BTreeSet<PathBuf> {
    let descriptors = format!("/proc/{}/fd", process.id().expect("it runs"));
    let links = std::fs::read_dir(descriptors).unwrap();
    // One may be closed meanwhile.
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .collect()
}

pub(crate) fn signal(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Calls that talk until they are told to hang up, and note the longest time that each heard
/// nothing in each chapter.
pub(crate) struct Talkers {
    tasks: JoinSet<Result<(u64, u64), String>>,
    /// Zero: hang up.
    chapter: watch::Sender<u64>,
    heard: watch::Receiver<u64>,
    gaps: Arc<Mutex<Vec<Duration>>>,
    calls: usize,
}

impl Talkers {
    pub(crate) async fn start(addr: SocketAddr, name: &str, calls: usize) -> Self {
        let (chapter, chapters) = watch::channel(1);
        let (hears, heard) = watch::channel(0);
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for number in 0..calls {
            let ws = ws::call(addr, &format!("/ws/{name}-{number}"), "").await;
            let (chapters, hears, gaps) = (chapters.clone(), hears.clone(), Arc::clone(&gaps));
            tasks.spawn(async move {
                let mut stream = Stream::new(ws);
                let mut told = 1;
                let run = stream.run(|stream| {
                    let now = *chapters.borrow();
                    if now != told {
                        told = now;
                        gaps.lock().unwrap().push(stream.gap);
                        stream.gap = Duration::ZERO;
                        hears.send_modify(|calls| *calls += 1);
                    }
                    now == 0
                });
                run.await.map_err(|error| format!("{number}: {error}"))?;
                Ok((stream.sent, stream.received))
            });
        }
        Self {
            tasks,
            chapter,
            heard,
            gaps,
            calls,
        }
    }

    /// Waits until every call has heard a frame from now on.
    pub(crate) async fn turn_page(&mut self) {
        let goal = *self.heard.borrow() + self.calls as u64;
        self.chapter.send_modify(|chapter| *chapter += 1);
        tokio::select! {
            heard = soon("frames in every call", self.heard.wait_for(|heard| *heard >= goal)) => {
                heard.unwrap();
            }
            Some(ended) = self.tasks.join_next() => panic!("a call ended: {ended:?}, seed {SEED:#x}"),
        }
    }

    /// The gaps of the chapters since it was asked last.
    fn gaps(&self) -> Vec<Duration> {
        let mut gaps = std::mem::take(&mut *self.gaps.lock().unwrap());
        gaps.sort();
        gaps
    }

    /// Hangs up; answers frames sent and received in all calls, checked by number and content.
    pub(crate) async fn hang_up(self) -> (u64, u64) {
        self.chapter.send_replace(0);
        let ends = soon("the end of every call", self.tasks.join_all()).await;
        let ends: Result<Vec<(u64, u64)>, String> = ends.into_iter().collect();
        let ends = ends.unwrap();
        ends.into_iter()
            .fold((0, 0), |(s, r), (sent, received)| (s + sent, r + received))
    }
}

/// A place with an agent, a controller and a gateway.
pub(crate) struct Scene {
    pub(crate) dir: Dir,
    pub(crate) agent: Agent,
    pub(crate) controller: Controller,
    pub(crate) gateway: Process,
}

impl Scene {
    pub(crate) async fn start(dir: Dir, manner: Manner) -> Self {
        Self::start_failing(dir, manner, "").await
    }

    /// With a gateway that breaks where `fail` says.
    pub(crate) async fn start_failing(dir: Dir, manner: Manner, fail: &str) -> Self {
        let agent = Agent::start(manner).await;
        let workers = [("w1", "v1", agent.addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let gateway = Process::start_failing(dir.path(), false, fail).await;
        controller.report("the table", |r| r.epoch.0 == 1).await;
        Self {
            dir,
            agent,
            controller,
            gateway,
        }
    }

    /// SIGKILL, and at once another one.
    pub(crate) async fn kill(&mut self) {
        let addr = self.gateway.addr;
        self.gateway.child.kill().await.unwrap();
        self.gateway = Process::start(self.dir.path(), false).await;
        assert_eq!(self.gateway.addr, addr, "the listener was kept, too");
    }

    /// What the gateway has open that the keeper has not. Before there are calls: what is nobody's
    /// call.
    fn unkept(&self, keeper: &Child) -> BTreeSet<PathBuf> {
        &sockets(&self.gateway.child) - &sockets(keeper)
    }

    /// Waits until the keeper has each socket of each call. How many it has does not tell: it may
    /// still have those of calls that are over.
    async fn kept(&self, keeper: &Child, others: &BTreeSet<PathBuf>) {
        until("every call kept", || {
            self.unkept(keeper).is_subset(others).then_some(())
        })
        .await;
    }

    /// Waits for a report that counts so many live calls, and none lost.
    pub(crate) async fn counts(&mut self, live: u64) -> AgentPresence {
        let report = self.controller.report("live calls", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.map_or(0, |counts| counts.live) == live
        });
        let report = report.await;
        let totals = report.releases.get(&release("v1")).map(|c| &c.totals);
        let lost = totals.map_or(0, |totals| totals.lost);
        assert_eq!(lost, 0, "{totals:?}");
        report
    }

    /// What callers sent and heard is what the agent heard and sent.
    pub(crate) fn checked(&self, (sent, received): (u64, u64)) {
        let seen = self.agent.seen.lock().unwrap();
        assert_eq!(seen.faults, Vec::<String>::new(), "seed {SEED:#x}");
        let (by_agent, to_agent) = seen
            .streams
            .iter()
            .fold((0, 0), |(s, r), (sent, received)| (s + sent, r + received));
        assert_eq!(sent, to_agent, "every frame of a caller arrived");
        assert!(by_agent >= received, "{by_agent} {received}");
    }
}

/// `SEGUE_TEST_CALLS=500 SEGUE_TEST_KILLS=20` is the full one; it says what it measured.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_through_kills_of_their_gateway() {
    let (calls, kills) = (asked("SEGUE_TEST_CALLS", 60), asked("SEGUE_TEST_KILLS", 4));
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let mut talkers = Talkers::start(scene.gateway.addr, "long", calls).await;
    let all = calls as u64;
    holds(scene.dir.path(), "all calls kept", |f| f.held == all).await;
    talkers.turn_page().await;
    talkers.gaps();
    let (mut state, mut accepted) = (SEED, Vec::new());
    for _ in 0..kills {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        tokio::time::sleep(Duration::from_millis((state >> 33) % 120)).await;
        let addr = scene.gateway.addr;
        let began = Instant::now();
        scene.gateway.child.kill().await.unwrap();
        // A caller who comes while nobody is there waits, and is accepted.
        let new = tokio::spawn(async move {
            let mut ws = ws::call(addr, "/ws/new", "").await;
            let took = began.elapsed();
            ws.close(1000).await.unwrap();
            took
        });
        scene.gateway = Process::start(scene.dir.path(), false).await;
        accepted.push(soon("a new call", new).await.unwrap());
        // A call of a few milliseconds may be lost; this journal has no other end.
        let journal = config(scene.dir.path()).journal_file();
        until("the end of the new call", || {
            let text = std::fs::read_to_string(&journal).ok()?;
            text.contains(r#""is":"closed""#).then_some(())
        })
        .await;
        talkers.turn_page().await;
        holds(scene.dir.path(), "all calls kept again", |f| f.held >= all).await;
    }
    let gaps = talkers.gaps();
    println!(
        "{calls} calls, {kills} kills: gap p50 {:?} p99 {:?} max {:?}; a new call took at most {:?}",
        gaps[gaps.len() / 2],
        gaps[gaps.len() * 99 / 100],
        gaps.last().unwrap(),
        accepted.iter().max().unwrap()
    );
    scene.counts(all).await;
    let heard = talkers.hang_up().await;
    let report = scene.counts(0).await;
    let totals = &report.releases[&release("v1")].totals;
    assert_eq!((totals.dropped, totals.errors), (0, 0));
    let last = |f: &Figures| (f.held, f.orphaned, f.gateways) == (0, 0, 1);
    holds(scene.dir.path(), "nothing left to keep", last).await;
    scene.gateway.terminate();
    assert!(scene.gateway.ended().await.success());
    holds(scene.dir.path(), "no gateway", |f| f.gateways == 0).await;
    let log = std::fs::read_to_string(config(scene.dir.path()).call_log_file()).unwrap();
    assert!(!log.contains("gateway died"), "{log}");
    scene.checked(heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_keeper_is_given_everything_again() {
    let dir = Dir::new();
    let mut first = keeper(dir.path()).await;
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let mut talkers = Talkers::start(scene.gateway.addr, "long", 20).await;
    holds(scene.dir.path(), "all calls kept", |f| f.held == 20).await;
    first.kill().await.unwrap();
    talkers.turn_page().await;
    let _second = keeper(scene.dir.path()).await;
    holds(scene.dir.path(), "all calls kept again", |f| f.held == 20).await;
    scene.kill().await;
    talkers.turn_page().await;
    scene.counts(20).await;
    let heard = talkers.hang_up().await;
    scene.counts(0).await;
    scene.checked(heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_which_there_was_no_room_are_kept_when_there_is() {
    let dir = Dir::new();
    // Memory, listener, and eleven calls.
    let keeper = small_keeper(dir.path(), 24).await;
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let others = scene.unkept(&keeper);
    let first = Talkers::start(scene.gateway.addr, "first", 8).await;
    holds(scene.dir.path(), "all calls kept", |f| f.held == 8).await;
    let mut second = Talkers::start(scene.gateway.addr, "second", 8).await;
    let full = |f: &Figures| f.held == 11 && f.unheld >= 5;
    holds(scene.dir.path(), "as many as there is room for", full).await;
    let ended = first.hang_up().await;
    scene.kept(&keeper, &others).await;
    // The next gateway has the same sockets, and there is no room for all of them twice.
    scene.kill().await;
    second.turn_page().await;
    holds(scene.dir.path(), "all kept again", |f| f.held == 8).await;
    scene.counts(8).await;
    let heard = second.hang_up().await;
    scene.counts(0).await;
    scene.checked((ended.0 + heard.0, ended.1 + heard.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_stands_still_holds_nobody_up() {
    let dir = Dir::new();
    let stopped = keeper(dir.path()).await;
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let others = scene.unkept(&stopped);
    let mut talkers = Talkers::start(scene.gateway.addr, "before", 20).await;
    holds(scene.dir.path(), "all calls kept", |f| f.held == 20).await;
    signal(&stopped, Signal::STOP);
    talkers.turn_page().await;
    let mut late = Talkers::start(scene.gateway.addr, "late", 40).await;
    late.turn_page().await;
    let brief = Talkers::start(scene.gateway.addr, "brief", 40).await;
    let brief = brief.hang_up().await;
    talkers.turn_page().await;
    signal(&stopped, Signal::CONT);
    scene.kept(&stopped, &others).await;
    scene.kill().await;
    talkers.turn_page().await;
    late.turn_page().await;
    let heard = [talkers.hang_up().await, late.hang_up().await, brief];
    scene.counts(0).await;
    let heard = heard.iter().fold((0, 0), |(s, r), h| (s + h.0, r + h.1));
    scene.checked(heard);
}

/// A gateway that starts beside a keeper that stands still serves all the same, and is kept once
/// the keeper goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_the_word_of_its_keeper() {
    let dir = Dir::new();
    let stopped = keeper(dir.path()).await;
    signal(&stopped, Signal::STOP);
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let mut talkers = Talkers::start(scene.gateway.addr, "long", 5).await;
    talkers.turn_page().await;
    signal(&stopped, Signal::CONT);
    holds(scene.dir.path(), "all calls kept", |f| f.held == 5).await;
    scene.kill().await;
    talkers.turn_page().await;
    let heard = talkers.hang_up().await;
    scene.counts(0).await;
    scene.checked(heard);
}

/// Killed at each step of taking calls back, twice over: they stay with the keeper until they are
/// in the next one's hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_dies_while_it_takes_calls_back_loses_none() {
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let mut talkers = Talkers::start(scene.gateway.addr, "long", 20).await;
    holds(scene.dir.path(), "all calls kept", |f| f.held == 20).await;
    for step in ["claimed", "read", "counted", "held", "owned", "relayed"] {
        talkers.turn_page().await;
        scene.gateway.child.kill().await.unwrap();
        for _ in 0..2 {
            let mut dies = child("gateway")
                .env("SEGUE_TEST_DIR", scene.dir.path())
                .env("SEGUE_FAIL_AT", format!("keeper.{step}=crash"))
                .spawn()
                .unwrap();
            let status = soon("its death", dies.wait()).await.unwrap();
            assert!(!status.success(), "{step}");
        }
        scene.gateway = Process::start(scene.dir.path(), false).await;
        talkers.turn_page().await;
        holds(scene.dir.path(), "all calls kept again", |f| f.held == 20).await;
        scene.counts(20).await;
    }
    let heard = talkers.hang_up().await;
    scene.counts(0).await;
    scene.checked(heard);
}

/// Only its own user is heard. Needs root, to be somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_not_heard() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = Dir::new();
    let socket = socket(dir.path());
    let _keeper = Keeper::start(&socket).unwrap();
    // Anybody may connect here; in a state folder nobody else can.
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    for path in [dir.path(), &dir.path().join("run"), &socket] {
        open(path);
    }
    let ask = |uid: u32| {
        let mut asker = child("asker");
        asker.env("SEGUE_TEST_DIR", dir.path()).uid(uid);
        asker
    };
    let ours = soon("our answer", ask(0).status()).await.unwrap();
    assert!(ours.success());
    let Ok(mut stranger) = ask(NOBODY).spawn() else {
        // It may not even run this program.
        return;
    };
    assert!(!soon("no answer", stranger.wait()).await.unwrap().success());
    assert!(census(&socket).is_ok(), "the keeper minds no stranger");
}

/// The gateway panics in its relay: that is a death like any other.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_a_death_like_any_other() {
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Stream).await;
    let mut talkers = Talkers::start(scene.gateway.addr, "long", 5).await;
    holds(scene.dir.path(), "all calls kept", |f| f.held == 5).await;
    signal(&scene.gateway.child, Signal::ABORT);
    assert!(!scene.gateway.ended().await.success());
    scene.gateway = Process::start(scene.dir.path(), false).await;
    talkers.turn_page().await;
    let heard = talkers.hang_up().await;
    scene.counts(0).await;
    scene.checked(heard);
}
