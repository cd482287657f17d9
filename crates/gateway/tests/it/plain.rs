//! Plain requests and the pins they make.

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::table::release;
use crate::support::ws::{call, exchange};

fn webhook(call_sid: &str) -> String {
    let body = format!("AccountSid=AC1&CallSid={call_sid}&From=%2B15550001");
    format!(
        "POST /voice HTTP/1.1\r\nHost: desk.example\r\n\
         Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_pins_the_call_that_follows() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let answer = exchange(rig.gateway.addr, webhook("CA1").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("X-Agent: yes\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let body = rig.v1.seen.lock().unwrap().bodies[0].clone();
    assert!(
        body.ends_with(b"From=%2B15550001"),
        "the body arrives as it was"
    );

    let counts = rig.counts(release("v1"), |counts| counts.pinned == 1).await;
    assert_eq!((counts.live, counts.totals.started), (0, 0));
    let report = rig.controller.install(rig.table(2, "v2")).await;
    assert_eq!(
        report.releases[&release("v1")].pinned,
        1,
        "still a call of the old release"
    );
    let ws = call(rig.gateway.addr, "/ws/CA1", "").await;
    assert_eq!(rig.v1.heads().len(), 2);
    assert!(
        !rig.v1.heads()[1].contains("X-Segue-Resume"),
        "it never was connected"
    );
    let counts = rig.counts(release("v1"), |counts| counts.live == 1).await;
    assert_eq!((counts.pinned, counts.totals.started), (0, 1));
    drop(ws);
    let other = exchange(rig.gateway.addr, webhook("CA2").as_bytes()).await;
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    assert_eq!(rig.v2.heads().len(), 1, "a new call goes by the new table");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_both_framings_and_requests_without_an_id() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let chunked = "POST /start HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: t\r\n\r\n";
    let answer = exchange(rig.gateway.addr, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let head = rig.v1.heads().pop().unwrap();
    assert!(head.contains("Content-Length: 11\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    let body = rig.v1.seen.lock().unwrap().bodies.pop().unwrap();
    assert_eq!(body, b"hello world");
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.pinned, counts.totals.started), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_stream_in_every_framing_and_a_turned_down_request_pins_nothing() {
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    for (answer, tail) in [
        ("HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 404 No\r\n\r\nabc until the end",
            "abc until the end",
        ),
        (
            "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            chunks,
        ),
        (
            "HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\na",
            "a",
        ),
    ] {
        let mut rig = Rig::start(Manner::Answer(answer.to_owned()), Manner::Echo).await;
        let got = exchange(rig.gateway.addr, webhook("CA1").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 404 No\r\n"), "{got}");
        assert!(got.ends_with(&format!("\r\n\r\n{tail}")), "{got}");
        let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
        assert_eq!(counts.pinned, 0);
    }
}
