//! What is not through when the calls move comes behind them: callers who have not said what they
//! want, and calls that stand late.

use std::net::SocketAddr;

use segue_core::presence::ReleaseCounts;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use crate::support::controller::Controller;
use crate::support::gateway::{Process, child};
use crate::support::table::{release, table};
use crate::support::ws::{self, ACCEPT, Ws, read_head, upgrade};
use crate::support::{Dir, soon};

/// A worker that answers upgrades when it is told to, and sends back what it hears.
struct Slow {
    listener: TcpListener,
}

/// A call at it.
struct Asked(TcpStream);

impl Slow {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (Self { listener }, addr)
    }

    async fn asked(&self) -> Asked {
        loop {
            let (mut stream, _) = soon("an upgrade", self.listener.accept()).await.unwrap();
            // A health check says nothing.
            if soon("a head", read_head(&mut stream)).await.is_ok() {
                return Asked(stream);
            }
        }
    }
}

impl Asked {
    async fn accept(mut self) {
        let accepted = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        self.0.write_all(accepted.as_bytes()).await.unwrap();
        let mut ws = Ws::new(self.0, Vec::new(), false);
        tokio::spawn(async move {
            while let Ok(Some((opcode, payload))) = ws.next().await {
                if ws.send(opcode, &payload).await.is_err() || opcode == ws::CLOSE {
                    return;
                }
            }
        });
    }
}

struct Scene {
    dir: Dir,
    worker: Slow,
    controller: Controller,
    gateway: Process,
}

impl Scene {
    async fn start(fail: &str) -> Self {
        let dir = Dir::new();
        let (worker, addr) = Slow::start().await;
        let workers = [("w1", "v1", addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let gateway = Process::start_failing(dir.path(), false, fail).await;
        controller.report("the table", |r| r.epoch.0 == 1).await;
        Self {
            dir,
            worker,
            controller,
            gateway,
        }
    }

    /// A call that its worker was asked for, and has not answered.
    async fn half_a_call(&self) -> (TcpStream, Asked) {
        let mut caller = TcpStream::connect(self.gateway.addr).await.unwrap();
        let request = upgrade("/ws/late", "");
        caller.write_all(request.as_bytes()).await.unwrap();
        (caller, self.worker.asked().await)
    }

    async fn counts(&mut self, wished: impl Fn(&ReleaseCounts) -> bool) {
        let report = self.controller.report("counts as wished", |report| {
            report.releases.get(&release("v1")).is_some_and(&wished)
        });
        report.await;
    }
}

fn taker(dir: &Dir, fail: &str) -> Child {
    child("gateway")
        .env("SEGUE_TEST_DIR", dir.path())
        .env("SEGUE_TEST_TAKES", "yes")
        .env("SEGUE_FAIL_AT", fail)
        .spawn()
        .unwrap()
}

async fn accepted(mut caller: TcpStream) -> Ws<TcpStream> {
    let (head, behind) = soon("a 101", read_head(&mut caller)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    Ws::new(caller, behind, true)
}

async fn hang_up(mut call: Ws<TcpStream>) {
    call.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", call.next()).await {}
}

async fn talks(call: &mut Ws<TcpStream>) {
    for number in 0..20u64 {
        let frame = number.to_be_bytes();
        call.send(ws::BINARY, &frame).await.unwrap();
        let back = soon("an echo", call.next()).await.unwrap();
        assert_eq!(back, Some((ws::BINARY, frame.to_vec())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_stands_late_moves_behind_the_others() {
    let mut scene = Scene::start("").await;
    let (caller, asked) = scene.half_a_call().await;
    let mut next = Process::start(scene.dir.path(), true).await;
    // New calls are taken there while the old process waits for the worker.
    let (new, other) = {
        let mut new = TcpStream::connect(next.addr).await.unwrap();
        let request = upgrade("/ws/new", "");
        new.write_all(request.as_bytes()).await.unwrap();
        (new, scene.worker.asked().await)
    };
    other.accept().await;
    let mut new = accepted(new).await;
    talks(&mut new).await;

    asked.accept().await;
    let mut late = accepted(caller).await;
    talks(&mut late).await;
    assert!(scene.gateway.ended().await.success(), "it has no call left");
    talks(&mut late).await;
    scene.counts(|counts| counts.live == 2).await;
    hang_up(late).await;
    hang_up(new).await;
    scene
        .counts(|counts| (counts.live, counts.totals.started, counts.totals.ended) == (0, 2, 2))
        .await;
    next.terminate();
    assert!(next.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_has_said_half_a_head_goes_along() {
    let mut scene = Scene::start("").await;
    let request = upgrade("/ws/slow", "");
    let (first, rest) = request.split_at(20);
    let mut caller = TcpStream::connect(scene.gateway.addr).await.unwrap();
    caller.write_all(first.as_bytes()).await.unwrap();
    let silent = TcpStream::connect(scene.gateway.addr).await.unwrap();
    let mut next = Process::start(scene.dir.path(), true).await;
    assert!(
        scene.gateway.ended().await.success(),
        "it waits for neither"
    );

    caller.write_all(rest.as_bytes()).await.unwrap();
    scene.worker.asked().await.accept().await;
    let mut call = accepted(caller).await;
    talks(&mut call).await;
    let mut silent = silent;
    silent
        .write_all(upgrade("/ws/silent", "").as_bytes())
        .await
        .unwrap();
    scene.worker.asked().await.accept().await;
    talks(&mut accepted(silent).await).await;
    drop(call);
    next.terminate();
    assert!(next.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_is_served_on_when_nothing_is_handed_over() {
    let scene = Scene::start("").await;
    let request = upgrade("/ws/slow", "");
    let (first, rest) = request.split_at(20);
    let mut caller = TcpStream::connect(scene.gateway.addr).await.unwrap();
    caller.write_all(first.as_bytes()).await.unwrap();
    let mut breaks = taker(&scene.dir, "handoff.adopted=crash");
    assert!(!soon("its end", breaks.wait()).await.unwrap().success());
    caller.write_all(rest.as_bytes()).await.unwrap();
    scene.worker.asked().await.accept().await;
    talks(&mut accepted(caller).await).await;
}

/// A call has one owner, whoever dies while it comes late.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_call_survives_the_death_of_either_side() {
    for (giver, of_taker) in [("", "late_came"), ("late_sent", "")] {
        let crash = |step: &str| {
            let fail = (!step.is_empty()).then(|| format!("handoff.{step}=crash"));
            fail.unwrap_or_default()
        };
        let mut scene = Scene::start(&crash(giver)).await;
        let (caller, asked) = scene.half_a_call().await;
        let mut next = Process::start_failing(scene.dir.path(), true, &crash(of_taker)).await;
        asked.accept().await;
        let mut late = accepted(caller).await;
        let dies = if giver.is_empty() {
            &mut next
        } else {
            &mut scene.gateway
        };
        assert!(!dies.ended().await.success(), "{giver} {of_taker}");
        talks(&mut late).await;
        let lives = if giver.is_empty() {
            &mut scene.gateway
        } else {
            &mut next
        };
        hang_up(late).await;
        lives.terminate();
        assert!(lives.ended().await.success(), "{giver} {of_taker}");
    }
}
