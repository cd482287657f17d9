//! Whom a request is for, what it wants to become, and what it says in our name.

use super::rows::{CLAUSES, Once, Refused, Rows, Status};

pub(super) fn target(rows: &mut Rows) {
    rows.of(CLAUSES[11]);
    rows.get(Refused, "X-A: b");
    rows.get(Refused, "Host_: a");
    for value in [
        "",
        " ",
        "a, b",
        "a,a",
        "a b",
        "a/b",
        "u@a",
        "u:p@a",
        "a:",
        "a:80:80",
        "a:99999",
        "a:-1",
        "a:+1",
        "a:0x50",
        "a:8o",
        "[::1",
        "::1",
        "[::g]",
        "[::1]x",
        "[::1]:",
        "[]",
        "a#b",
        "a?b",
        "a\\b",
        "a%00",
        "\u{e4}.test",
        "a;b",
        "a=b",
        "\"a\"",
        "<a>",
        "http://a",
        "a:80/",
        "*",
        "a\u{a0}",
        ":80",
    ] {
        rows.get(Refused, &format!("Host: {value}"));
    }
    for (first, second) in [("a", "a"), ("a", "b"), ("a", ""), ("", "a"), ("a", "a:80")] {
        for name in ["Host", "host", "HOST"] {
            rows.get(
                Refused,
                &format!("Host: {first}\r\nX-A: b\r\n{name}: {second}"),
            );
        }
    }
    for value in [
        "a",
        "a:80",
        "A.Test",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
        "a_b-c.d",
    ] {
        rows.get(Once, &format!("Host: {value}"));
    }
    targets(rows);
    request_lines(rows);
}

fn targets(rows: &mut Rows) {
    rows.of(CLAUSES[12]);
    for target in [
        "http://b/x",
        "http://a:81/x",
        "http://u@a/x",
        "http://a@b/x",
        "https://b/x",
        "HTTP://b/x",
        "http:///x",
        "http://",
        "http:/a/x",
        "http:a",
        "ftp://a/x",
        "ws://a/x",
        "file:///x",
        "a",
        "a:80",
        "a/x",
        "*",
        "?x",
        "x",
        "javascript:1",
        "http://a#f",
        "/x#f",
        "http://b?x",
        "http://ab/",
        "http://a.b/x",
        "://a/x",
        "http://a,b/x",
        "%2fx",
        "..",
        "~",
    ] {
        rows.add(Refused, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    for target in [
        "http://a/x",
        "HTTPS://A/x",
        "http://a",
        "http://a?x",
        "//b/x",
        "/x?y\\z",
        "/%2e%2e/",
    ] {
        rows.add(Once, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
}

fn request_lines(rows: &mut Rows) {
    rows.of(CLAUSES[13]);
    for line in [
        "PRI * HTTP/2.0\r\n\r\nSM",
        "GET /x",
        "GET",
        "",
        " ",
        "GET /x HTTP/2.0",
        "GET /x HTTP/1.2",
        "GET /x HTTP/0.9",
        "GET /x HTTP/3",
        "GET /x HTTP/1",
        "GET /x HTTP/1.",
        "GET /x HTTP/1.10",
        "GET /x HTTP/01.1",
        "GET /x HTTP/1.1x",
        "GET /x http/1.1",
        "GET /x Http/1.1",
        "GET /x HTTP/ 1.1",
        "GET /x HTTP 1.1",
        "GET /x HTTPS/1.1",
        "GET /x ICY/1.1",
        "GET /x HTTP/1.1 x",
        "GET /x HTTP/1.1 ",
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        "GET\t/x HTTP/1.1",
        "GET /x\tHTTP/1.1",
        " GET /x HTTP/1.1",
        "\tGET /x HTTP/1.1",
        "GET/x HTTP/1.1",
        "/x HTTP/1.1",
        "GET HTTP/1.1",
        "HTTP/1.1 200 OK",
        "SSH-2.0-OpenSSH_9",
        "EHLO a",
        "\u{16}\u{3}\u{1}\u{2}",
        "\u{5}\u{1}",
        "{\"a\":1}",
        "GET /x HTTP/1.1,",
    ] {
        rows.add(Refused, format!("{line}\r\nHost: a\r\n\r\n"));
    }
    rows.add(Refused, "\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    rows.add(Once, "\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    rows.of(CLAUSES[20]);
    for method in ["CONNECT", "TRACE", "connect", "Trace"] {
        rows.add(
            Status(405),
            format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        );
    }
    rows.add(Refused, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    rows.add(Refused, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
}

pub(super) fn upgrades(rows: &mut Rows) {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let good = format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    let but = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    rows.of(CLAUSES[16]);
    for method in [
        "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "get", "Get", "GETS",
    ] {
        rows.add(Status(400), but("GET", method));
    }
    for line in [
        "Content-Length: 5",
        "Content-Length: 1",
        "Transfer-Encoding: chunked",
    ] {
        rows.add(
            Status(400),
            but("Connection", &format!("{line}\r\nConnection")),
        );
    }
    rows.add(Status(400), but("HTTP/1.1", "HTTP/1.0"));
    for key in [
        "",
        "c2hvcnQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZSBsb25n",
        "!!!!!!!!!!!!!!!!!!!!!!==",
        "dGhl IHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
        "0",
        "dGhlIHNhbXBsZSBub25jZR==",
    ] {
        rows.add(Status(400), but(KEY, key));
    }
    rows.add(Status(400), but("Sec-WebSocket-Key", "X-Key"));
    rows.add(
        Status(400),
        but(
            "Upgrade: ",
            &format!("Sec-WebSocket-Key: {KEY}\r\nUpgrade: "),
        ),
    );
    for version in [
        "12", "14", "8", "7", "0", "", "13, 8", "8, 13", "013", "13.0", "+13", "13;", "0x0d", "130",
    ] {
        rows.add(Status(426), but(": 13", &format!(": {version}")));
    }
    rows.add(Status(426), but("Sec-WebSocket-Version", "X-Version"));
    rows.add(
        Status(400),
        but("Upgrade: ", "Sec-WebSocket-Version: 13\r\nUpgrade: "),
    );
    for connection in [
        "close",
        "keep-alive",
        "",
        "upgrades",
        "up grade",
        "\"upgrade\"",
        "h2c",
    ] {
        rows.add(Status(400), but(": Upgrade", &format!(": {connection}")));
    }
    rows.add(Status(400), but("Connection: Upgrade\r\n", ""));

    rows.of(CLAUSES[17]);
    for token in [
        "h2c",
        "TLS/1.0",
        "HTTP/2.0",
        "websocket2",
        "websocket/13",
        "web socket",
        "xwebsocket",
        "IRC/6.9",
        "",
        ",",
    ] {
        rows.add(
            Once,
            but("Upgrade: websocket", &format!("Upgrade: {token}")),
        );
    }
    rows.get(Once, "Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA");
    rows.get(
        Once,
        "Host: a\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nConnection: close",
    );
}

pub(super) fn trust(rows: &mut Rows) {
    rows.of(CLAUSES[18]);
    for name in [
        "X-Segue-Call-Id",
        "x-segue-release",
        "X-SEGUE-RESUME",
        "X_Segue_Call_Id",
        "x-segue-anything",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X_Forwarded-Host",
        "Forwarded",
        "forwarded",
        "Host",
        "host",
        "Content-Length",
        "Transfer-Encoding",
        "content_length",
        "transfer_encoding",
    ] {
        rows.get(Refused, &format!("Host: a\r\nConnection: {name}"));
        rows.get(Refused, &format!("Host: a\r\nConnection: close, {name}"));
        rows.get(
            Refused,
            &format!("Host: a\r\nConnection: close\r\nConnection: x,{name} ,y"),
        );
    }
    rows.of(CLAUSES[19]);
    for name in [
        "X-Segue-Call-Id",
        "x-segue-release",
        "X-SEGUE-RESUME",
        "X_Segue_Call_Id",
        "X-Segue_Retiring",
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X_Forwarded_For",
        "X-Forwarded-Prefix",
        "Forwarded",
        "FORWARDED",
        "TE",
        "Upgrade",
        "HTTP2-Settings",
    ] {
        rows.get(Once, &format!("Host: a\r\n{name}: evil"));
        rows.get(Once, &format!("{name}: evil\r\nHost: a\r\n{name}: evil"));
    }
}
