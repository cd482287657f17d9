//! Hundreds of connections that are slow on purpose, while people talk.
//!
//! What is measured is printed, not asserted: `SEGUE_TEST_SLOW=500 SEGUE_TEST_SECONDS=60 cargo test
//! --release -p segue-gateway --test it -- --nocapture slow::`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::support::agent::{FLOOD, Manner, Stream};
use crate::support::rig::Rig;
use crate::support::table::TOKEN;
use crate::support::ws::{Ws, call, upgrade};
use crate::support::{Dir, soon};
use crate::tls;

/// Calls that flow all the while.
const CALLS: usize = 10;

/// How often a slow connection does anything.
const DRIP: Duration = Duration::from_millis(250);

/// How long new calls wait for each other.
const NEXT_CALL: Duration = Duration::from_millis(200);

/// Small, so that little lies between the gateway and a caller that does not read, in bytes.
const WINDOW: u32 = 4 * 1024;

fn of_environment(name: &str, usual: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(usual, |told| told.parse().unwrap())
}

/// Ways to be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Head,
    Body,
    Read,
    /// A call that is accepted and then says nothing: it is a live call, and stays.
    Silence,
    Handshake,
}

/// What the slow ones met.
#[derive(Debug, Default)]
struct Met {
    held: AtomicUsize,
    /// Cut by the gateway, by [`Kind`].
    cut: [AtomicUsize; 5],
}

/// Comes again as soon as it is cut.
async fn slow(addr: SocketAddr, kind: Kind, number: usize, met: Arc<Met>) {
    let mut again = 0;
    loop {
        met.held.fetch_add(1, Ordering::Relaxed);
        let cut = once(addr, kind, &format!("{number}-{again}")).await;
        met.held.fetch_sub(1, Ordering::Relaxed);
        if cut {
            met.cut[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        again += 1;
    }
}

/// One connection, to its end.
async fn once(addr: SocketAddr, kind: Kind, name: &str) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(WINDOW).unwrap();
    let Ok(mut stream) = socket.connect(addr).await else {
        return false;
    };
    let first = match kind {
        Kind::Head => "GET / HTTP/1.1\r\nHost: a\r\nX-A: ".to_owned(),
        Kind::Body => "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_owned(),
        Kind::Read => format!("GET {FLOOD} HTTP/1.1\r\nHost: a\r\n\r\n"),
        // Release v2 says nothing of its own accord.
        Kind::Silence => upgrade(
            &format!("/ws/silent-{name}"),
            &format!("X-Segue-Override: v2\r\nX-Segue-Override-Token: {TOKEN}\r\n"),
        ),
        // The beginning of a ClientHello of 512 bytes.
        Kind::Handshake => "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(),
    };
    if stream.write_all(first.as_bytes()).await.is_err() {
        return true;
    }
    let mut answer = [0];
    loop {
        match kind {
            Kind::Read | Kind::Silence => sleep(DRIP).await,
            Kind::Head | Kind::Body | Kind::Handshake => {
                if stream.write_all(b"x").await.is_err() {
                    return true;
                }
                // What is answered ends the connection.
                if timeout(DRIP, stream.read(&mut answer)).await.is_ok() {
                    return true;
                }
                continue;
            }
        }
        // What is unread hides the reset from who only reads.
        let reset = stream.take_error().unwrap().is_some();
        if kind == Kind::Read && (reset || !matches!(stream.read(&mut answer).await, Ok(1..))) {
            return true;
        }
    }
}

/// Time between two frames of a call, before and while it is slow around it.
#[derive(Debug, Default)]
struct Gaps {
    before: Vec<Duration>,
    during: Vec<Duration>,
}

const BEFORE: u8 = 0;
const DURING: u8 = 1;
const END: u8 = 2;

/// Talks until the end; every byte is checked on both sides.
async fn talk<S>(ws: Ws<S>, phase: Arc<AtomicU8>) -> Gaps
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut stream, mut gaps) = (Stream::new(ws), Gaps::default());
    let ran = stream.run(|stream| {
        let gap = std::mem::take(&mut stream.gap);
        let now = phase.load(Ordering::Relaxed);
        match now {
            BEFORE => gaps.before.push(gap),
            DURING => gaps.during.push(gap),
            _ => {}
        }
        now == END
    });
    ran.await.unwrap();
    stream.end().await.unwrap();
    gaps
}

fn percentile(mut gaps: Vec<Duration>) -> [Duration; 3] {
    gaps.sort_unstable();
    [50, 99, 100].map(|percent| gaps[(gaps.len() * percent / 100).min(gaps.len() - 1)])
}

/// The slow ones, and what they must meet.
fn start_slow(addr: SocketAddr, kinds: &[Kind]) -> (Arc<Met>, JoinSet<()>) {
    let count = usize::try_from(of_environment("SEGUE_TEST_SLOW", 100)).unwrap();
    let (met, mut tasks) = (Arc::new(Met::default()), JoinSet::new());
    for number in 0..count {
        let kind = kinds[number % kinds.len()];
        tasks.spawn(slow(addr, kind, number, Arc::clone(&met)));
    }
    (met, tasks)
}

async fn judge(name: &str, calls: Vec<JoinHandle<Gaps>>, met: &Met, new_calls: &[Duration]) {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for call in calls {
        let gaps = soon("the end of a call", call).await.unwrap();
        before.extend(gaps.before);
        during.extend(gaps.during);
    }
    assert!(!before.is_empty() && !during.is_empty());
    eprintln!(
        "{name}: between frames p50, p99, max without {:?}, with {:?} (held {}, cut {:?}); new calls {} {:?}",
        percentile(before),
        percentile(during),
        met.held.load(Ordering::Relaxed),
        met.cut,
        new_calls.len(),
        percentile(new_calls.to_vec()),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_flow_and_new_ones_come_through() {
    const KINDS: [Kind; 4] = [Kind::Head, Kind::Body, Kind::Read, Kind::Silence];
    let seconds = Duration::from_secs(of_environment("SEGUE_TEST_SECONDS", 4));
    let rig = Rig::start_with(Manner::Stream, Manner::Echo, |config| {
        for limit in [
            &mut config.limits.head_timeout,
            &mut config.limits.body_timeout,
            &mut config.limits.stall_timeout,
        ] {
            *limit = (*limit).min(seconds / 4);
        }
    })
    .await;
    let (addr, phase) = (rig.gateway.addr, Arc::new(AtomicU8::new(BEFORE)));
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let ws = call(addr, &format!("/ws/talk-{number}"), "").await;
        calls.push(tokio::spawn(talk(ws, Arc::clone(&phase))));
    }
    // How long the two spells last is what is compared, and nothing waits for it to have passed.
    sleep(seconds / 2).await;
    let (met, slow) = start_slow(addr, &KINDS);
    phase.store(DURING, Ordering::Relaxed);
    let (start, mut new_calls) = (Instant::now(), Vec::new());
    while start.elapsed() < seconds {
        let asked = Instant::now();
        let ws = call(addr, &format!("/ws/new-{}", new_calls.len()), "").await;
        new_calls.push(asked.elapsed());
        let short = talk(ws, Arc::new(AtomicU8::new(END)));
        soon("a short call", short).await;
        sleep(NEXT_CALL).await;
    }
    // Each of the slow that are no calls is cut some time; the calls never are.
    for kind in [Kind::Head, Kind::Body, Kind::Read] {
        soon(&format!("a cut of {kind:?}"), async {
            while met.cut[kind as usize].load(Ordering::Relaxed) == 0 {
                sleep(DRIP).await;
            }
        })
        .await;
    }
    assert_eq!(met.cut[Kind::Silence as usize].load(Ordering::Relaxed), 0);
    phase.store(END, Ordering::Relaxed);
    judge("plain", calls, &met, &new_calls).await;
    drop(slow);
    assert!(rig.v1.seen.lock().unwrap().faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_hold_nobody_up() {
    let seconds = Duration::from_secs(of_environment("SEGUE_TEST_SECONDS", 4));
    let certs = Dir::new();
    let (files, trusted) = tls::identity(certs.path());
    let rig = Rig::start_with(Manner::Stream, Manner::Echo, |config| {
        config.tls = Some(files);
        config.limits.head_timeout = config.limits.head_timeout.min(seconds / 4);
    })
    .await;
    let (addr, phase) = (rig.gateway.addr, Arc::new(AtomicU8::new(BEFORE)));
    let mut calls = Vec::new();
    for number in 0..CALLS {
        let (_, ws) = tls::call(addr, &trusted, &format!("/ws/talk-{number}")).await;
        calls.push(tokio::spawn(talk(ws, Arc::clone(&phase))));
    }
    sleep(seconds / 2).await;
    let (met, slow) = start_slow(addr, &[Kind::Handshake]);
    phase.store(DURING, Ordering::Relaxed);
    let (start, mut new_calls) = (Instant::now(), Vec::new());
    while start.elapsed() < seconds {
        let asked = Instant::now();
        let target = format!("/ws/new-{}", new_calls.len());
        let (_, ws) = tls::call(addr, &trusted, &target).await;
        new_calls.push(asked.elapsed());
        soon("a short call", talk(ws, Arc::new(AtomicU8::new(END)))).await;
        sleep(NEXT_CALL).await;
    }
    soon("a cut", async {
        while met.cut[Kind::Handshake as usize].load(Ordering::Relaxed) == 0 {
            sleep(DRIP).await;
        }
    })
    .await;
    phase.store(END, Ordering::Relaxed);
    judge("TLS", calls, &met, &new_calls).await;
    drop(slow);
    assert!(rig.v1.seen.lock().unwrap().faults.is_empty());
}

/// A caller that sends a long body may be slow; many of them take nothing from the others.
#[tokio::test(flavor = "multi_thread")]
async fn long_slow_bodies_do_not_keep_webhooks_waiting() {
    const HELD: usize = 80;
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let addr = rig.gateway.addr;
    let mut held = Vec::new();
    for _ in 0..HELD {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; 32 * 1024]).await.unwrap();
        held.push(stream);
    }
    let webhook = "POST /voice HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let answer = crate::support::ws::exchange(addr, webhook.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // Those that found no turn are told to come again; none reached the worker.
    let mut answers = JoinSet::new();
    for mut stream in held {
        answers.spawn(async move {
            let mut answer = Vec::new();
            let _ = soon("an answer", stream.read_to_end(&mut answer)).await;
            String::from_utf8_lossy(&answer).into_owned()
        });
    }
    let answers = answers.join_all().await;
    let with = |status: &str| answers.iter().filter(|a| a.starts_with(status)).count();
    let (late, busy) = (with("HTTP/1.1 408 "), with("HTTP/1.1 503 "));
    assert_eq!(
        (late + busy, late >= 64),
        (HELD, true),
        "{late} late, {busy} busy"
    );
    let of_busy = answers.iter().filter(|a| a.starts_with("HTTP/1.1 503 "));
    assert!(
        of_busy
            .clone()
            .all(|a| a.contains("\r\nRetry-After: 1\r\n"))
    );
    assert_eq!(rig.v1.heads().len(), 1);
}
