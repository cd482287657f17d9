//! Calls from the 101 to the end.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::agent::Manner;
use crate::support::gateway::config;
use crate::support::rig::Rig;
use crate::support::table::{release, table};
use crate::support::ws::{ACCEPT, BINARY, call, exchange, upgrade};
use crate::support::{soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_101_opens_a_call() {
    let good = format!(
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Why: no\r\n\r\nhi";
    for (answer, status, why) in [
        (ok.to_owned(), 200, "a plain answer"),
        (
            "HTTP/1.1 503 Busy\r\n\r\nlater".to_owned(),
            503,
            "no length",
        ),
        (good.replace("s3pP", "xxxx"), 502, "a wrong accept"),
        (
            good.replace("Upgrade: websocket\r\n", ""),
            502,
            "no upgrade",
        ),
        (
            good.replace("Connection: Upgrade\r\n", ""),
            502,
            "no connection",
        ),
        (
            good.replace("\r\n\r\n", "\r\nA: b\nC: d\r\n\r\n"),
            502,
            "a bare LF",
        ),
        (good.replace("101 X", "1O1 X"), 502, "no status"),
        (String::new(), 502, "nothing"),
    ] {
        let mut rig = Rig::start(Manner::Answer(answer.clone()), Manner::Echo).await;
        let mut request = upgrade("/ws/a", "").into_bytes();
        request.extend(b"early bytes of a caller that does not wait");
        let got = exchange(rig.gateway.addr, &request).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{why}: {got}"
        );
        assert!(got.contains("Connection: close\r\n"), "{why}: {got}");
        if status == 200 {
            assert!(
                got.contains("X-Why: no\r\n") && got.ends_with("\r\n\r\nhi"),
                "{got}"
            );
        }
        let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
        // Anyone can ask for what is no WebSocket.
        let errors = u64::from(status >= 500);
        assert_eq!((counts.pinned, counts.totals.errors), (0, errors), "{why}");
        assert_eq!(rig.v1.heads().len(), 1);
        assert!(rig.v1.seen.lock().unwrap().bodies.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_counted_by_side_and_code_and_logged() {
    for (last, key, dropped, code) in [
        (&[0x88, 2, 0x03, 0xe8][..], "worker:1000", 0, "1000"),
        (&[0x88, 2, 0x03, 0xf4][..], "worker:1012", 1, "1012"),
        (&[0x88, 2, 0x03, 0xf3][..], "worker:1011", 1, "1011"),
        (&[][..], "worker:none", 1, "null"),
    ] {
        let mut rig = Rig::start(Manner::Close(last.to_vec()), Manner::Echo).await;
        let mut ws = call(rig.gateway.addr, "/ws/a", "").await;
        let hello = soon("early bytes of a worker", ws.next()).await.unwrap();
        assert_eq!(hello, Some((BINARY, b"hello".to_vec())));
        while let Ok(Some(_)) = soon("the end", ws.next()).await {}
        drop(ws);
        let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
        assert_eq!(counts.totals.closes.get(key), Some(&1), "{counts:?}");
        assert_eq!((counts.totals.started, counts.totals.ended), (1, 1));
        assert_eq!(counts.totals.dropped, dropped, "{key}");
        assert_eq!(counts.pinned, 1);

        let file = rig.dir.path().join("log/calls.jsonl");
        let line = until("a line of the call log", || {
            let text = std::fs::read_to_string(&file).ok()?;
            text.lines().next().map(str::to_owned)
        })
        .await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["id"], "a");
        assert_eq!(line["label"], "v1");
        assert_eq!(line["worker"], "w1");
        assert_eq!(line["reason"], "split");
        assert_eq!(line["end"]["by"], "worker");
        assert_eq!(line["end"]["code"].to_string(), code);
        assert_eq!(line["end"]["dropped"], dropped == 1);
        assert_eq!(line["bytes_out"], 7 + last.len());
        let (start, connected) = (&line["started_ms"], &line["connected_ms"]);
        assert!(start.as_u64() <= connected.as_u64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_is_no_drop() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut ws = call(rig.gateway.addr, "/ws/a", "").await;
    ws.send(BINARY, b"to and fro").await.unwrap();
    let back = soon("an echo", ws.next()).await.unwrap();
    assert_eq!(back, Some((BINARY, b"to and fro".to_vec())));
    ws.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    drop(ws);
    drop(call(rig.gateway.addr, "/ws/b", "").await);
    let counts = rig
        .counts(release("v1"), |counts| counts.totals.ended == 2)
        .await;
    assert_eq!(counts.totals.closes.get("caller:1000"), Some(&1));
    assert_eq!(counts.totals.closes.get("caller:none"), Some(&1));
    assert_eq!(counts.totals.dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_told_to_end_waits_for_its_last_call() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let addr = rig.gateway.addr;
    let mut ws = call(addr, "/ws/a", "").await;
    let ended = rig.gateway.stop();
    until("a closed port", || std::net::TcpStream::connect(addr).err()).await;
    assert!(
        !config(rig.dir.path()).addr_file().exists(),
        "nobody is sent there"
    );
    ws.send(BINARY, b"still here").await.unwrap();
    let back = soon("an echo", ws.next()).await.unwrap();
    assert_eq!(back, Some((BINARY, b"still here".to_vec())));
    assert!(!ended.is_finished());
    ws.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    drop(ws);
    soon("the end of the gateway", ended)
        .await
        .unwrap()
        .unwrap();
    let log = std::fs::read_to_string(rig.dir.path().join("log/calls.jsonl")).unwrap();
    assert_eq!(
        log.lines().count(),
        1,
        "the last line is written before the end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_before_the_101_is_no_error() {
    // It takes connections and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let workers = [("mute", "v1", mute.local_addr().unwrap())];
    rig.controller.install(table(2, "v1", &workers)).await;
    let mut caller = TcpStream::connect(rig.gateway.addr).await.unwrap();
    let request = upgrade("/ws/a", "");
    caller.write_all(request.as_bytes()).await.unwrap();
    rig.counts(release("v1"), |counts| counts.live == 1).await;
    drop(caller);
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.totals.started, counts.totals.errors), (1, 0));
    assert_eq!((counts.pinned, counts.totals.ended), (0, 0));
}
