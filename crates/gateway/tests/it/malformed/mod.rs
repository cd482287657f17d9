//! Heads that two parsers could read in two ways, with requests hidden behind them, against a
//! gateway and a worker that reads strictly, counts everything and keeps its connections open.
//!
//! The oracle: what the gateway logged as sent is what the worker read, request by request. That
//! it can fail is shown with a proxy that passes on what it is given.

mod framing;
mod rows;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::rows::{Expect, Row};
use crate::support::access;
use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::strict_worker::{Heard, StrictWorker};
use crate::support::table::table;
use crate::support::{soon, until};

/// Rows that are under way at once.
const BATCH: usize = 32;

/// Heads that must be there at least.
const ROWS_MIN: usize = 500;

/// What came back for one row: a status, or nothing.
type Answered = (usize, Option<u16>, String);

/// Sends everything, says that no more will come, and reads to the end.
async fn give(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // Who is refused may be closed before it has said all: that is an answer, too.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = soon("the end of an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn give_all(addr: SocketAddr, rows: &[Row]) -> Vec<Answered> {
    let mut answers = Vec::new();
    for start in (0..rows.len()).step_by(BATCH) {
        let mut batch = JoinSet::new();
        for (at, row) in rows.iter().enumerate().skip(start).take(BATCH) {
            let bytes = row.bytes.clone();
            batch.spawn(async move {
                let answer = give(addr, &bytes).await;
                let status = answer.strip_prefix("HTTP/1.1 ").and_then(|a| a.get(..3));
                (at, status.and_then(|status| status.parse().ok()), answer)
            });
        }
        answers.extend(batch.join_all().await);
    }
    answers
}

/// How what was logged differs from what was heard.
fn disagreements(logged: &[String], heard: &Heard) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut calls: BTreeMap<&str, i64> = BTreeMap::new();
    for call in logged {
        *calls.entry(call).or_default() += 1;
    }
    let ids: Vec<_> = heard.requests.iter().map(call_id).collect();
    for id in &ids {
        *calls.entry(id).or_default() -= 1;
    }
    for (call, difference) in calls {
        if difference != 0 {
            wrong.push(format!("{call:?}: logged less heard is {difference}"));
        }
    }
    wrong.extend(heard.bad.iter().map(|bad| format!("not read: {bad}")));
    for request in &heard.requests {
        for (name, value) in &request.headers {
            let name = String::from_utf8_lossy(name).replace('_', "-");
            let trusted = name.starts_with("x-segue-") || name.starts_with("x-forwarded-");
            let hop = matches!(
                name.as_str(),
                "upgrade" | "http2-settings" | "te" | "forwarded"
            );
            if hop || (trusted && value.windows(4).any(|w| w == b"evil")) {
                wrong.push(format!("{name} got through"));
            }
        }
    }
    wrong
}

fn call_id(request: &crate::support::strict::Parsed) -> String {
    let ids: Vec<_> = request.all("x-segue-call-id").collect();
    match ids.as_slice() {
        [id] => String::from_utf8_lossy(id).into_owned(),
        _ => format!("{} ids", ids.len()),
    }
}

#[test]
fn there_are_enough_and_every_clause_has_some() {
    let rows = rows::rows();
    let mut distinct = BTreeSet::new();
    for row in &rows {
        let head = &row.bytes[..row.head];
        assert!(distinct.insert(head), "twice: {}", head.escape_ascii());
    }
    let refused = rows.iter().filter(|row| row.expect != Expect::Once);
    assert!(refused.count() >= ROWS_MIN);
    for clause in rows::CLAUSES {
        let of_it = rows.iter().filter(|row| row.clause == clause).count();
        assert!(of_it >= 3, "{clause}: {of_it}");
    }
    for row in &rows {
        assert!(rows::CLAUSES.contains(&row.clause), "{}", row.clause);
    }
}

/// Whether that is what must come back: one answer at most, whatever lies behind the head.
fn is_right(expect: Expect, status: Option<u16>, answer: &str) -> bool {
    let of_status = match expect {
        Expect::Once => status == Some(200),
        Expect::Refused => status.is_none_or(|status| (400..500).contains(&status)),
        Expect::Status(expected) => status == Some(expected),
    };
    let tells_version = answer.contains("\r\nSec-WebSocket-Version: 13\r\n");
    of_status
        && answer.matches("HTTP/1.1 ").count() == usize::from(status.is_some())
        && (status != Some(426) || tells_version)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_as_sent_is_what_the_worker_reads() {
    access::listen();
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let worker = StrictWorker::start().await;
    let workers = [("w1", "v1", worker.addr)];
    rig.controller.install(table(2, "v1", &workers)).await;

    let rows = rows::rows();
    let (mut once, mut wrong) = (0, Vec::new());
    for (at, status, answer) in give_all(rig.gateway.addr, &rows).await {
        let row = &rows[at];
        once += usize::from(row.expect == Expect::Once);
        if !is_right(row.expect, status, &answer) {
            let shown = row.bytes.escape_ascii();
            wrong.push(format!("{}: {shown}: {answer:?}", row.clause));
        }
        if at % BATCH == 0 {
            once += 1;
            let answer = give(rig.gateway.addr, b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "afterwards: {answer}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    until("the end of all connections", || {
        worker.is_quiet().then_some(())
    })
    .await;
    let logged = access::sent_to(worker.addr);
    let heard = worker.heard();
    assert_eq!(disagreements(&logged, &heard), [""; 0]);
    assert_eq!((logged.len(), heard.requests.len()), (once, once));
    eprintln!("{} heads, {once} requests logged and read", rows.len());
}

/// A proxy that passes on what it gets, and believes that to be one request.
async fn pass_on(mut caller: TcpStream, to: SocketAddr, number: usize) {
    let mut bytes = Vec::new();
    let _ = caller.read_to_end(&mut bytes).await;
    if let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") {
        let ours = format!("X-Segue-Call-Id: lax-{number}\r\n");
        bytes.splice(line + 2..line + 2, ours.into_bytes());
    }
    let mut worker = TcpStream::connect(to).await.unwrap();
    let _ = worker.write_all(&bytes).await;
    let _ = worker.shutdown().await;
    let _ = tokio::io::copy(&mut worker, &mut caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_passes_everything_on_is_found_out() {
    let worker = StrictWorker::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, to) = (listener.local_addr().unwrap(), worker.addr);
    let proxy = tokio::spawn(async move {
        for number in 0.. {
            let (caller, _) = listener.accept().await.unwrap();
            tokio::spawn(pass_on(caller, to, number));
        }
    });
    let rows = rows::rows();
    give_all(addr, &rows).await;
    until("the end of all connections", || {
        worker.is_quiet().then_some(())
    })
    .await;
    proxy.abort();
    let logged: Vec<_> = (0..rows.len())
        .map(|number| format!("lax-{number}"))
        .collect();
    let heard = worker.heard();
    let smuggled = heard
        .requests
        .iter()
        .filter(|r| r.target.starts_with(b"/smuggled"));
    assert!(smuggled.count() > 20);
    assert!(disagreements(&logged, &heard).len() > 500);
}
