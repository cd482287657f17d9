//! What a worker may say, and that it hears nothing of a caller before it has said it rightly.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::table::table;
use crate::support::ws::{ACCEPT, exchange, read_head, upgrade};
use crate::support::{soon, until};

const EARLY: &[u8] = b"\x81\x85\x01\x02\x03\x04early bytes of a caller that does not wait";

/// How long a worker listens for what must not come yet. A short time can only miss a fault.
const LISTEN: Duration = Duration::from_millis(100);

/// What a worker heard behind each head before it answered, and after it.
type Heard = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

/// Answers each head with these bytes.
async fn worker(answer: String) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, heard) = (listener.local_addr().unwrap(), Heard::default());
    let log = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, answer.clone(), Arc::clone(&log)));
        }
    });
    (addr, heard)
}

async fn serve(mut stream: TcpStream, answer: String, heard: Heard) {
    // A health check says nothing.
    let Ok((_, mut before)) = read_head(&mut stream).await else {
        return;
    };
    let _ = timeout(LISTEN, stream.read_buf(&mut before)).await;
    let _ = stream.write_all(answer.as_bytes()).await;
    let mut after = Vec::new();
    if !answer.starts_with("HTTP/1.1 101 ") {
        let _ = stream.shutdown().await;
    }
    let _ = stream.read_to_end(&mut after).await;
    heard.lock().unwrap().push((before, after));
}

fn good() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

async fn rig(answer: &str) -> (Rig, Heard) {
    let (addr, heard) = worker(answer.to_owned()).await;
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let workers = [("w1", "v1", addr)];
    rig.controller.install(table(2, "v1", &workers)).await;
    (rig, heard)
}

async fn only_one(heard: &Heard) -> (Vec<u8>, Vec<u8>) {
    until("the end at the worker", || heard.lock().unwrap().pop()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_an_upgrade_waits_for_the_101() {
    let (rig, heard) = rig(&good()).await;
    let mut caller = TcpStream::connect(rig.gateway.addr).await.unwrap();
    let request = [upgrade("/ws/a", "").as_bytes(), EARLY].concat();
    caller.write_all(&request).await.unwrap();
    let (head, _) = soon("a 101", read_head(&mut caller)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    caller.shutdown().await.unwrap();
    let (before, after) = only_one(&heard).await;
    assert_eq!(before.escape_ascii().to_string(), "");
    assert_eq!(after, EARLY);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_an_upgrade_that_is_not_accepted_is_never_heard() {
    for (from, to) in [
        ("101 Switching", "200 Switching"),
        ("101 Switching", "404 Switching"),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("s3pP", "S3pP"),
        ("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\n"),
        ("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("\r\n\r\n", "\r\nSec-WebSocket-Accept: a\r\n\r\n"),
    ] {
        let answer = good().replacen(from, to, 1);
        let (rig, heard) = rig(&answer).await;
        let request = [upgrade("/ws/a", "").as_bytes(), EARLY].concat();
        let got = exchange(rig.gateway.addr, &request).await;
        let status = if from.starts_with("101") {
            &to[..3]
        } else {
            "502"
        };
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{to}: {got}"
        );
        assert!(got.contains("Connection: close\r\n"), "{to}: {got}");
        let (before, after) = only_one(&heard).await;
        let all = [before, after].concat();
        assert_eq!(all.escape_ascii().to_string(), "", "{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_can_be_read_in_two_ways_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
        "HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Len",
        "hello\r\n\r\n",
        "",
    ] {
        let (rig, _) = rig(answer).await;
        let got = exchange(rig.gateway.addr, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{answer:?}: {got:?}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got:?}");
    }
}
