//! Calls in unusual states when their gateway dies: they go on in the next one as they were.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use segue_gateway::keeper::Keeper;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use crate::keeper::{Scene, holds, small_keeper, socket};
use crate::support::agent::Manner;
use crate::support::gateway::{Process, config};
use crate::support::table::{release, table};
use crate::support::ws::{self, ACCEPT, BINARY, frame, read_head};
use crate::support::{Dir, soon, until};

/// Frames of a caller whom nobody hears: more than the kernel keeps for both connections.
const FRAMES: u64 = 800;

/// Payload of each of them.
const BYTES: usize = 60_000;

/// A worker whose one call is served by `serve`, behind the 101.
async fn worker<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A health check says nothing.
            if read_head(&mut stream).await.is_err() {
                continue;
            }
            let accepted = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            );
            stream.write_all(accepted.as_bytes()).await.unwrap();
            serve(stream).await;
            return;
        }
    });
    addr
}

/// A scene whose calls go to that worker.
async fn scene(worker: SocketAddr) -> (Keeper, Scene) {
    let dir = Dir::new();
    let keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Echo).await;
    let workers = [("w1", "v1", worker)];
    scene.controller.install(table(2, "v1", &workers)).await;
    (keeper, scene)
}

fn numbered(number: u64) -> Vec<u8> {
    let mut payload = vec![number.to_le_bytes()[0]; BYTES];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    frame(BINARY, &payload, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_written_is_written_by_the_next_gateway() {
    let go = Arc::new(Notify::new());
    let (heard, all) = oneshot::channel();
    let wait = Arc::clone(&go);
    let addr = worker(move |mut stream| async move {
        wait.notified().await;
        let mut got = vec![0; numbered(0).len()];
        let mut good = 0;
        for number in 0..FRAMES {
            stream.read_exact(&mut got).await.unwrap();
            good += u64::from(got == numbered(number));
        }
        heard.send(good).unwrap();
    })
    .await;
    let (_keeper, mut scene) = scene(addr).await;
    let call = ws::call(scene.gateway.addr, "/ws/slow", "").await;
    holds(scene.dir.path(), "the call kept", |f| f.held == 1).await;
    let said = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&said);
    let mut stream = call.stream;
    let saying = tokio::spawn(async move {
        for number in 0..FRAMES {
            stream.write_all(&numbered(number)).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
        stream
    });
    // Until nobody takes more. Should that be too early, it is another instant of the same story.
    let mut before = u64::MAX;
    while before != said.load(Ordering::Relaxed) {
        before = said.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for _ in 0..2 {
        scene.kill().await;
        holds(scene.dir.path(), "the call kept again", |f| f.held == 1).await;
    }
    go.notify_one();
    let stream = soon("all that was said", saying).await.unwrap();
    let good = soon("all that was heard", all).await.unwrap();
    assert_eq!(good, FRAMES, "every frame, and in order");
    scene.counts(1).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_has_said_its_last_word_is_still_answered() {
    let go = Arc::new(Notify::new());
    let (ends, ended) = oneshot::channel();
    let wait = Arc::clone(&go);
    let addr = worker(move |mut stream| async move {
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        ends.send(said).unwrap();
        wait.notified().await;
        stream.write_all(b"the last word").await.unwrap();
    })
    .await;
    let (_keeper, mut scene) = scene(addr).await;
    let mut stream = ws::call(scene.gateway.addr, "/ws/half", "").await.stream;
    stream
        .write_all(&frame(BINARY, b"bye", true))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let said = soon("the end of one side", ended).await.unwrap();
    assert_eq!(said, frame(BINARY, b"bye", true));
    holds(scene.dir.path(), "the call kept", |f| f.held == 1).await;
    scene.kill().await;
    go.notify_one();
    let mut heard = Vec::new();
    let end = soon("the other end", stream.read_to_end(&mut heard)).await;
    assert_eq!((end.unwrap(), &heard[..]), (13, &b"the last word"[..]));
    scene.counts(0).await;
}

/// The keeper has its gateway's memory, and no room for its sockets: who was lost is known from that
/// alone, whatever became of the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_could_not_be_kept_is_named_by_the_memory() {
    let dir = Dir::new();
    let _keeper = small_keeper(dir.path(), 2).await;
    let mut scene = Scene::start(dir, Manner::Echo).await;
    let _call = ws::call(scene.gateway.addr, "/ws/unkept", "").await;
    let refused = holds(scene.dir.path(), "no room", |f| f.unheld > 0).await;
    assert_eq!(refused.held, 0);
    scene.gateway.child.kill().await.unwrap();
    std::fs::remove_file(config(scene.dir.path()).journal_file()).unwrap();
    scene.gateway = Process::start(scene.dir.path(), false).await;
    let lost = scene.controller.report("the lost call", |report| {
        let counts = report.releases.get(&release("v1"));
        counts.is_some_and(|counts| (counts.totals.lost, counts.live) == (1, 0))
    });
    lost.await;
    let log = std::fs::read_to_string(config(scene.dir.path()).call_log_file()).unwrap();
    let named = |line: &&str| line.contains("gateway died") && line.contains("unkept");
    assert_eq!(log.lines().filter(named).count(), 1, "{log}");
}

/// Killed as soon as anything is known of a call, and a little later: it goes on, or it is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_only_just_begun_goes_on_or_is_named() {
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Echo).await;
    let (mut went_on, mut lost) = (0, 0);
    for number in 0..8 {
        let is_last = number == 7;
        if is_last {
            holds(scene.dir.path(), "no call before it", |f| f.held == 0).await;
        }
        let id = format!("new-{number}");
        let mut call = ws::call(scene.gateway.addr, &format!("/ws/{id}"), "").await;
        let journal = config(scene.dir.path()).journal_file();
        until("it is journaled", || {
            let text = std::fs::read_to_string(&journal).ok()?;
            text.contains(&id).then_some(())
        })
        .await;
        if is_last {
            holds(scene.dir.path(), "the call kept", |f| f.held == 1).await;
        } else {
            tokio::time::sleep(Duration::from_millis(8 * (number % 4))).await;
        }
        scene.kill().await;
        let heard = match call.send(BINARY, b"still there?").await {
            Ok(()) => soon("an echo, or the end", call.next())
                .await
                .ok()
                .flatten(),
            Err(_) => None,
        };
        if heard.is_some() {
            went_on += 1;
            continue;
        }
        lost += 1;
        until("its name", || {
            let log = std::fs::read_to_string(config(scene.dir.path()).call_log_file()).ok()?;
            let named = |line: &str| line.contains("gateway died") && line.contains(&id);
            log.lines().any(named).then_some(())
        })
        .await;
    }
    println!("{went_on} went on, {lost} were lost and named");
    assert!(went_on > 0, "the keeper had the last one");
}

/// A gateway that takes no new calls and is killed: the one beside it takes its calls.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_draining_gateway_go_on_in_the_one_beside_it() {
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let mut scene = Scene::start(dir, Manner::Echo).await;
    let mut call = ws::call(scene.gateway.addr, "/ws/long", "").await;
    holds(scene.dir.path(), "the call kept", |f| f.held == 1).await;
    scene.gateway.terminate();
    let addr = scene.gateway.addr;
    until("a closed port", || std::net::TcpStream::connect(addr).err()).await;
    let second = Process::start(scene.dir.path(), false).await;
    let mut draining = std::mem::replace(&mut scene.gateway, second);
    let two = |f: &segue_gateway::keeper::Figures| f.gateways == 2;
    holds(scene.dir.path(), "both gateways", two).await;
    draining.child.kill().await.unwrap();
    for _ in 0..2 {
        call.send(BINARY, b"still there?").await.unwrap();
        let echo = soon("an echo", call.next()).await.unwrap();
        assert_eq!(echo, Some((BINARY, b"still there?".to_vec())));
        holds(scene.dir.path(), "one gateway with it", |f| {
            (f.held, f.orphaned, f.gateways) == (1, 0, 1)
        })
        .await;
        scene.counts(1).await;
        scene.kill().await;
    }
    // What the first one left behind was looked through, and nothing of it was lost.
    until("nothing left aside", || {
        let files = std::fs::read_dir(scene.dir.path().join("gateway")).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name());
        let aside = names.any(|name| name.to_string_lossy().starts_with("draining-"));
        (!aside).then_some(())
    })
    .await;
    let report = scene.counts(1).await;
    assert_eq!(report.releases[&release("v1")].totals.lost, 0);
}
