//! Live calls move from process to process.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use segue_gateway::handoff::HANDOFF_VERSION;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Manner, Stream};
use crate::support::controller::{Controller, Ended};
use crate::support::gateway::{Gateway, Process, config};
use crate::support::rig::Rig;
use crate::support::table::{release, table};
use crate::support::{Dir, soon, ws};

/// How many calls talk while they move. `SEGUE_TEST_CALLS=1000` for the full count.
fn calls() -> usize {
    let asked = std::env::var("SEGUE_TEST_CALLS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// Frames that every call hears in each chapter of the story.
const FRAMES: u64 = 15;

/// Calls that talk for chapters: each hears [`FRAMES`] more frames in each.
pub(crate) struct Callers {
    tasks: JoinSet<Result<(u64, u64), String>>,
    chapter: watch::Sender<u64>,
    through: Arc<Semaphore>,
    pub(crate) calls: usize,
    /// The longest silence of each call in this chapter.
    gaps: Arc<Mutex<Vec<Duration>>>,
}

impl Callers {
    pub(crate) async fn start(addr: SocketAddr, calls: usize) -> Self {
        let chapter = watch::Sender::new(1);
        let through = Arc::new(Semaphore::new(0));
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for number in 0..calls {
            let ws = ws::call(addr, &format!("/ws/call-{number}"), "").await;
            let (chapter, through) = (chapter.subscribe(), Arc::clone(&through));
            let gaps = Arc::clone(&gaps);
            tasks.spawn(async move {
                let mut stream = Stream::new(ws);
                let (mut told, mut goal) = (0, FRAMES);
                let hang_up = |stream: &mut Stream<_>| {
                    let now = *chapter.borrow();
                    if now > told + 1 {
                        // A new chapter began; its frames are counted from here.
                        told = now - 1;
                        goal = stream.received + FRAMES;
                    }
                    if told + 1 == now && stream.received >= goal {
                        told = now;
                        gaps.lock().unwrap().push(std::mem::take(&mut stream.gap));
                        through.add_permits(1);
                    }
                    now == 0
                };
                stream.run(hang_up).await?;
                Ok((stream.sent, stream.received))
            });
        }
        Self {
            tasks,
            chapter,
            through,
            calls,
            gaps,
        }
    }

    /// Waits until every call heard the frames of this chapter, and begins the next one.
    pub(crate) async fn turn_page(&mut self) {
        let permits = u32::try_from(self.calls).unwrap();
        let all = self.through.acquire_many(permits);
        tokio::select! {
            all = soon("frames in every call", all) => all.unwrap().forget(),
            Some(ended) = self.tasks.join_next() => panic!("a call ended: {ended:?}"),
        }
        self.chapter.send_modify(|chapter| *chapter += 1);
    }

    /// Says how long calls were silent since somebody last asked: the median, the 99th percentile
    /// and the longest, of which 20 ms are the time between two frames.
    fn print_gaps(&self, when: &str) {
        let mut gaps = std::mem::take(&mut *self.gaps.lock().unwrap());
        gaps.sort_unstable();
        let at = |percent: usize| gaps[(gaps.len() - 1) * percent / 100].as_millis();
        let (p50, p99, max) = (at(50), at(99), at(100));
        eprintln!("{when}: longest silence per call p50 {p50} ms, p99 {p99} ms, max {max} ms");
    }

    /// Hangs up; answers frames sent and received in all calls, checked by number and content.
    pub(crate) async fn hang_up(self) -> (u64, u64) {
        self.chapter.send_replace(0);
        let ends = soon("the end of every call", self.tasks.join_all()).await;
        let ends: Result<Vec<(u64, u64)>, String> = ends.into_iter().collect();
        let ends = ends.unwrap();
        assert_eq!(ends.len(), self.calls);
        ends.into_iter()
            .fold((0, 0), |(s, r), (sent, received)| (s + sent, r + received))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_talking_calls_move_twice_and_lose_nothing() {
    let dir = Dir::new();
    let agent = Agent::start(Manner::Stream).await;
    let workers = [("w1", "v1", agent.addr)];
    let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
    let mut first = Process::start(dir.path(), false).await;
    controller
        .report("the first table", |report| report.epoch.0 == 1)
        .await;
    let mut callers = Callers::start(first.addr, calls()).await;
    callers.turn_page().await;
    callers.print_gaps("while calls begin");
    callers.turn_page().await;
    callers.print_gaps("undisturbed");

    let mut second = Process::start(dir.path(), true).await;
    let serves = Instant::now();
    assert_eq!(second.addr, first.addr, "the listener moved too");
    assert!(
        first.ended().await.success(),
        "the old process ends by itself"
    );
    eprintln!("the old process ended {:?} later", serves.elapsed());
    callers.turn_page().await;
    callers.print_gaps("first handoff");

    let mut third = Process::start(dir.path(), true).await;
    let serves = Instant::now();
    assert!(second.ended().await.success());
    eprintln!("the old process ended {:?} later", serves.elapsed());
    // New calls come in at the third process while the old ones talk.
    let mut late = Callers::start(third.addr, 1).await;
    callers.turn_page().await;
    callers.print_gaps("second handoff");
    late.turn_page().await;
    let all = calls() as u64;
    let report = controller
        .report("all calls in the report", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.live >= all)
        })
        .await;
    let counts = &report.releases[&release("v1")];
    assert_eq!((counts.totals.ended, counts.totals.dropped), (0, 0));

    let (sent, received) = callers.hang_up().await;
    let (late_sent, late_received) = late.hang_up().await;
    let report = controller
        .report("the ends in the report", |report| {
            report.releases[&release("v1")].live == 0
        })
        .await;
    let totals = &report.releases[&release("v1")].totals;
    assert_eq!(totals.dropped, 0);
    assert_eq!(totals.errors, 0);
    third.terminate();
    assert!(third.ended().await.success());
    let seen = agent.seen.lock().unwrap();
    assert_eq!(seen.faults, Vec::<String>::new());
    let (by_agent, to_agent) = seen
        .streams
        .iter()
        .fold((0, 0), |(s, r), (sent, received)| (s + sent, r + received));
    assert_eq!(
        sent + late_sent,
        to_agent,
        "every frame of a caller arrived"
    );
    assert_eq!(
        by_agent,
        received + late_received,
        "every frame of a worker arrived"
    );
}

fn say(mut socket: &UnixStream, json: &str) {
    let length = u32::try_from(json.len()).unwrap();
    socket.write_all(&length.to_be_bytes()).unwrap();
    socket.write_all(&[0; 4]).unwrap();
    socket.write_all(json.as_bytes()).unwrap();
}

/// A message and its kind, without the descriptors that came with it.
fn hear(mut socket: &UnixStream) -> (u8, String) {
    let mut prefix = [0; 8];
    socket.read_exact(&mut prefix).unwrap();
    let length = u32::from_be_bytes(prefix[..4].try_into().unwrap());
    let mut body = vec![0; length as usize];
    socket.read_exact(&mut body).unwrap();
    (prefix[4], String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_fails_leaves_everything_with_the_old_process() {
    let rig = Rig::start(Manner::Stream, Manner::Echo).await;
    let mut callers = Callers::start(rig.gateway.addr, 10).await;
    callers.turn_page().await;
    let path = rig.dir.path().join("run/handoff.sock");
    let run = std::fs::metadata(rig.dir.path().join("run")).unwrap();
    assert_eq!(run.permissions().mode() & 0o777, 0o700);

    let stranger = path.clone();
    let refused = tokio::task::spawn_blocking(move || {
        let socket = UnixStream::connect(stranger).unwrap();
        say(&socket, r#"{"type":"hello","version":999}"#);
        hear(&socket)
    });
    let (kind, refused) = soon("a refusal", refused).await.unwrap();
    assert_eq!(kind, 0, "as every version reads it");
    assert!(
        refused.contains("refused") && refused.contains("version"),
        "{refused}"
    );
    callers.turn_page().await;

    // Takers that die at every point before they are ready.
    let [word, header, ahead, deltas, done] = [0, 1, 2, 3, 5];
    let kinds = [word, header, ahead, word, deltas, done];
    // One more `ahead` where both of the rig's two shards have calls.
    for messages in 0..=kinds.len() + 1 {
        let path = path.clone();
        let heard = tokio::task::spawn_blocking(move || {
            let socket = UnixStream::connect(path).unwrap();
            let hello = format!(r#"{{"type":"hello","version":{HANDOFF_VERSION},"link":1}}"#);
            say(&socket, &hello);
            let mut heard = Vec::new();
            for _ in 0..messages {
                let (kind, body) = hear(&socket);
                if body.contains(r#""type":"ahead""#) {
                    say(&socket, r#"{"type":"prepared"}"#);
                }
                heard.push((kind, body));
                if kind == done {
                    break;
                }
            }
            heard
        });
        let heard = soon("the giver's messages", heard).await.unwrap();
        let mut came: Vec<u8> = heard.iter().map(|(kind, _)| *kind).collect();
        if messages > kinds.len() {
            assert_eq!(came.last(), Some(&done), "that was all");
        }
        came.dedup();
        assert_eq!(came, kinds[..came.len()]);
        if let Some((5, done)) = heard.last() {
            assert!(done.contains(r#""calls":10"#), "{done}");
        }
        callers.turn_page().await;
    }
    // New calls come in, and the old ones end in order.
    let mut late = Callers::start(rig.gateway.addr, 1).await;
    late.turn_page().await;
    let (sent, received) = callers.hang_up().await;
    let (late_sent, late_received) = late.hang_up().await;
    soon("the end of the gateway", rig.gateway.stop())
        .await
        .unwrap()
        .unwrap();
    let seen = rig.v1.seen.lock().unwrap();
    assert_eq!(seen.faults, Vec::<String>::new());
    let total = |of: fn(&(u64, u64)) -> u64| seen.streams.iter().map(of).sum::<u64>();
    assert_eq!(total(|(_, to)| *to), sent + late_sent);
    assert_eq!(total(|(by, _)| *by), received + late_received);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_totals_move_and_a_tls_call_stays_until_it_ends() {
    let certs = Dir::new();
    let (files, trusted) = crate::tls::identity(certs.path());
    let own = files.clone();
    let mut rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.tls = Some(own);
    })
    .await;
    let (_, mut tls) = crate::tls::call(rig.gateway.addr, &trusted, "/ws/tls").await;
    let (_, mut over) = crate::tls::call(rig.gateway.addr, &trusted, "/ws/over").await;
    over.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", over.next()).await {}
    drop(over);
    rig.counts(release("v1"), |counts| counts.pinned == 1).await;

    let mut taking = config(rig.dir.path());
    taking.takeover = Some(taking.handoff_socket());
    taking.tls = Some(files);
    let next = Gateway::start(taking).await;
    assert_eq!(next.addr, rig.gateway.addr);
    rig.controller.install(rig.table(2, "v2")).await;
    let (_, pinned) = crate::tls::call(next.addr, &trusted, "/ws/over").await;
    assert_eq!(rig.v1.heads().len(), 3, "by its pin, in the new process");
    let counts = rig.counts(release("v1"), |counts| counts.live == 1).await;
    assert_eq!(
        (counts.totals.started, counts.totals.ended),
        (2, 1),
        "they go on counting"
    );
    assert_eq!(counts.pinned, 1, "the call that stayed");

    // The old process relays on and ends with that call.
    tls.send(ws::BINARY, b"still here").await.unwrap();
    let back = soon("an echo", tls.next()).await.unwrap();
    assert_eq!(back, Some((ws::BINARY, b"still here".to_vec())));
    let old = rig.gateway.ended();
    assert!(!old.is_finished());
    tls.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", tls.next()).await {}
    drop(tls);
    soon("the end of the old process", old)
        .await
        .unwrap()
        .unwrap();
    drop(pinned);
    let told = |ended: &Ended| ended.goodbyes == 1 && ended.records.len() == 2;
    let records = rig.controller.ended("its goodbye", told).await;
    assert_eq!(records[1].call.as_str(), "tls", "told before the goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_new_call_is_refused_during_a_takeover() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let addr = rig.gateway.addr;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let done = Arc::clone(&done);
        callers.spawn(async move {
            let mut calls = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Fails the test unless it is accepted.
                let mut call = ws::call(addr, &format!("/ws/{number}-{calls}"), "").await;
                call.send(ws::BINARY, b"hello").await.unwrap();
                let back = soon("an echo", call.next()).await.unwrap();
                assert_eq!(back, Some((ws::BINARY, b"hello".to_vec())));
                call.close(1000).await.unwrap();
                let close = soon("a close frame", call.next()).await.unwrap();
                assert_eq!(close, Some((ws::CLOSE, 1000u16.to_be_bytes().to_vec())));
                calls += 1;
            }
            calls
        });
    }
    let mut running = rig.gateway;
    for _ in 0..3 {
        let mut taking = config(rig.dir.path());
        taking.takeover = Some(taking.handoff_socket());
        let next = Gateway::start(taking).await;
        let old = running.ended();
        soon("the end of the old process", old)
            .await
            .unwrap()
            .unwrap();
        running = next;
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let calls = soon("the callers", callers.join_all()).await;
    assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
    assert_eq!(rig.v1.heads().len(), calls.into_iter().sum::<usize>());
}
