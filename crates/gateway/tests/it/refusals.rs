//! What is refused, with a worker behind that must not hear a byte of it.

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::ws::{KEY, exchange};

fn upgrade_with(from: &str, to: &str) -> String {
    let good = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

fn post(headers: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

fn get(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n")
}

type Row = (&'static str, u16, String);

fn rows() -> Vec<Row> {
    [framing(), lines(), target(), trust(), websocket()].concat()
}

fn framing() -> Vec<Row> {
    vec![
        (
            "CL and TE",
            400,
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (
            "two CL",
            400,
            post("Content-Length: 1\r\nContent-Length: 1", "a"),
        ),
        ("CL list", 400, post("Content-Length: 1, 1", "a")),
        ("signed CL", 400, post("Content-Length: +1", "a")),
        ("negative CL", 400, post("Content-Length: -1", "a")),
        ("hex CL", 400, post("Content-Length: 0x1", "a")),
        ("empty CL", 400, post("Content-Length:", "")),
        (
            "overflowing CL",
            400,
            post("Content-Length: 18446744073709551616", "a"),
        ),
        (
            "CL above the limit",
            413,
            post("Content-Length: 99999999", "a"),
        ),
        ("TE identity", 400, post("Transfer-Encoding: identity", "")),
        (
            "TE list",
            400,
            post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"),
        ),
        (
            "TE twice",
            400,
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (
            "TE xchunked",
            400,
            post("Transfer-Encoding: xchunked", "0\r\n\r\n"),
        ),
        (
            "TE in 1.0",
            400,
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("chunk size 0x", 400, chunked("0x1\r\na\r\n0\r\n\r\n")),
        ("chunk size -", 400, chunked("-1\r\na\r\n0\r\n\r\n")),
        ("chunk size +", 400, chunked("+1\r\na\r\n0\r\n\r\n")),
        ("chunk size overflow", 400, chunked("fffffffffffffffff\r\n")),
        ("chunk size LF only", 400, chunked("1\na\n0\n\n")),
        (
            "chunk longer than said",
            400,
            chunked("1\r\nab\r\n0\r\n\r\n"),
        ),
    ]
}

fn lines() -> Vec<Row> {
    let many = "A: b\r\n".repeat(101);
    let long = format!("Host: a\r\nA: {}", "x".repeat(33 * 1024));
    vec![
        ("space before colon", 400, get("Host: a\r\nX-A : b")),
        ("obs-fold", 400, get("Host: a\r\nX-A: b\r\n c")),
        ("bare CR", 400, get("Host: a\r\nX-A: b\rc")),
        ("bare LF", 400, get("Host: a\nX-A: b")),
        ("NUL", 400, get("Host: a\r\nX-A: b\0c")),
        ("empty name", 400, get("Host: a\r\n: b")),
        (
            "too many headers",
            431,
            get(&format!("Host: a\r\n{many}A: b")),
        ),
        ("head too long", 431, get(&long)),
    ]
}

fn target() -> Vec<Row> {
    vec![
        ("no Host", 400, get("X-A: b")),
        ("two Hosts", 400, get("Host: a\r\nHost: a")),
        ("empty Host", 400, get("Host:")),
        ("Host with a path", 400, get("Host: a/b")),
        ("Host with a user", 400, get("Host: u@a")),
        (
            "other authority",
            400,
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            "authority form",
            400,
            "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            "asterisk form",
            400,
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            "HTTP/2 preface",
            400,
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
        ("not HTTP", 400, "\x16\x03\x01\x02\r\n\r\n".to_owned()),
    ]
}

fn trust() -> Vec<Row> {
    vec![
        (
            "Connection: x-segue",
            400,
            get("Host: a\r\nConnection: X-Segue-Call-Id"),
        ),
        (
            "Connection: x-forwarded",
            400,
            get("Host: a\r\nConnection: close, X-Forwarded-For"),
        ),
        (
            "Connection: x_segue",
            400,
            get("Host: a\r\nConnection: X_Segue-Call_Id"),
        ),
        ("Connection: host", 400, get("Host: a\r\nConnection: host")),
        (
            "override without token",
            403,
            get("Host: a\r\nX-Segue-Override: v2"),
        ),
        (
            "override with a wrong token",
            403,
            get("Host: a\r\nX-Segue-Override: v2\r\nX-Segue-Override-Token: no"),
        ),
        (
            "call id too long",
            400,
            get(&format!("Host: a\r\nX-Call-Id: {}", "x".repeat(129))),
        ),
        (
            "call id with bad characters",
            400,
            get("Host: a\r\nX-Call-Id: a b"),
        ),
        ("expectation", 417, get("Host: a\r\nExpect: wonders")),
    ]
}

fn websocket() -> Vec<Row> {
    let name = "Sec-WebSocket-Key";
    vec![
        ("upgrade by POST", 400, upgrade_with("GET", "POST")),
        (
            "upgrade with CL",
            400,
            upgrade_with("Upgrade\r\n", "Upgrade\r\nContent-Length: 3\r\n"),
        ),
        (
            "upgrade with TE",
            400,
            upgrade_with("Upgrade\r\n", "Upgrade\r\nTransfer-Encoding: chunked\r\n"),
        ),
        ("upgrade in 1.0", 400, upgrade_with("HTTP/1.1", "HTTP/1.0")),
        ("no key", 400, upgrade_with(name, "X-Key")),
        ("short key", 400, upgrade_with(KEY, "c2hvcnQ=")),
        (
            "key no base64",
            400,
            upgrade_with(KEY, "!!!!!!!!!!!!!!!!!!!!!!=="),
        ),
        (
            "two keys",
            400,
            upgrade_with("Upgrade: ", &format!("{name}: {KEY}\r\nUpgrade: ")),
        ),
        ("version 12", 426, upgrade_with(": 13", ": 12")),
        (
            "no version",
            426,
            upgrade_with("Sec-WebSocket-Version", "X-Version"),
        ),
        (
            "no Connection: Upgrade",
            400,
            upgrade_with("Connection: Upgrade", "Connection: close"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_answered_and_the_worker_hears_nothing() {
    let rig = Rig::start(Manner::Tap, Manner::Tap).await;
    for (name, status, request) in rows() {
        let answer = exchange(rig.gateway.addr, request.as_bytes()).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{name}: {answer:?}");
        assert!(answer.contains("Connection: close\r\n"), "{name}: {answer}");
        if status == 426 {
            assert!(
                answer.contains("\r\nSec-WebSocket-Version: 13\r\n"),
                "{answer}"
            );
        }
        let heard = String::from_utf8_lossy(&rig.v1.seen.lock().unwrap().raw).into_owned();
        assert_eq!(heard, "", "{name}");
    }
    // That silence means something: a good request is heard.
    let answer = exchange(rig.gateway.addr, get("Host: a").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!rig.v1.seen.lock().unwrap().raw.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_ours_to_say_is_taken_out() {
    let rig = Rig::start(Manner::Tap, Manner::Tap).await;
    let request = get(
        "Host: a:80\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Segue-Release: v9\r\n\
         x-segue-resume: true\r\nX_Segue_Resume: true\r\nx_forwarded-For: 6.6.6.6\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nX-Hop: 1\r\nConnection: Upgrade, HTTP2-Settings, X-Hop\r\nX-Kept: yes",
    );
    exchange(rig.gateway.addr, request.as_bytes()).await;
    let heard = String::from_utf8_lossy(&rig.v1.seen.lock().unwrap().raw).into_owned();
    let mut lines: Vec<&str> = heard.lines().collect();
    let call_id = lines
        .iter()
        .position(|l| l.starts_with("X-Segue-Call-Id: "));
    lines.remove(call_id.unwrap());
    let expected = [
        "GET / HTTP/1.1",
        "Host: a:80",
        "X-Kept: yes",
        "Connection: close",
        "X-Segue-Release: v1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: a:80",
        "",
    ];
    assert_eq!(lines, expected);
}
