//! Bounds on connections that are no calls.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::ws::{call, exchange};
use crate::support::{keeps_alive, soon, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_bounded_and_calls_do_not_count() {
    let rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.limits.connections_per_address = 2;
    })
    .await;
    let addr = rig.gateway.addr;
    let _calls = [
        call(addr, "/ws/a", "").await,
        call(addr, "/ws/b", "").await,
        call(addr, "/ws/c", "").await,
    ];
    let mut held = Vec::new();
    let turned_away = soon("a refusal", async {
        loop {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let mut answer = [0; 12];
            let read = socket.read_exact(&mut answer);
            match tokio::time::timeout(Duration::from_millis(200), read).await {
                Ok(read) => {
                    read.unwrap();
                    break answer;
                }
                Err(_) => held.push(socket),
            }
        }
    })
    .await;
    assert_eq!(&turned_away, b"HTTP/1.1 503");
    assert_eq!(held.len(), 2);
    held.clear();
    soon("room again", async {
        while !exchange(addr, GET).await.starts_with("HTTP/1.1 200 ") {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_takes_too_long_is_answered_and_closed() {
    let rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.limits.head_timeout = Duration::from_millis(100);
    })
    .await;
    let mut socket = TcpStream::connect(rig.gateway.addr).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost").await.unwrap();
    let mut answer = String::new();
    soon("an answer", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// In both framings, and with bytes coming in all the while: that it moves is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_answered_and_closed() {
    let rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.limits.body_timeout = Duration::from_millis(200);
    })
    .await;
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let (mut reading, mut writing) = TcpStream::connect(rig.gateway.addr)
            .await
            .unwrap()
            .into_split();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        writing.write_all(head.as_bytes()).await.unwrap();
        let drips = tokio::spawn(async move {
            while writing.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = [0; 13];
        soon("an answer", reading.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408 ", "{framing}");
        soon("the end of the connection", drips).await.unwrap();
    }
    assert!(rig.v1.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let dir = crate::support::Dir::new();
    let mut config = crate::support::gateway::config(dir.path());
    config.listen = rig.gateway.addr;
    let error = segue_gateway::run(config, std::future::pending())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}", rig.gateway.addr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_says_nothing_is_asked_for_a_sign_of_life() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let silent = TcpStream::connect(rig.gateway.addr).await.unwrap();
    let caller = silent.local_addr().unwrap();
    until("keepalives", || keeps_alive(caller).then_some(())).await;
}
