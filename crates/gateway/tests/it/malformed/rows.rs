//! The heads: clause by clause, each with every variant that readers are known to differ on.

use super::{framing, target};

/// What must become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// 4xx and closed, or closed; the worker hears nothing.
    Refused,
    /// Exactly this.
    Status(u16),
    /// Sent to the worker as one request; what lies behind it is dropped.
    Once,
}
pub(super) use Expect::{Once, Refused, Status};

/// One head, and what hides behind it.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) clause: &'static str,
    pub(super) bytes: Vec<u8>,
    /// How much of it is not hidden behind it.
    pub(super) head: usize,
    pub(super) expect: Expect,
}

/// What is refused, or taken out.
pub(super) const CLAUSES: [&str; 21] = [
    "Content-Length and Transfer-Encoding together",
    "Content-Length twice, as a list, signed, too large or no number",
    "Transfer-Encoding other than exactly chunked",
    "Transfer-Encoding in HTTP/1.0",
    "space before the colon",
    "obs-fold",
    "bare CR, bare LF, NUL",
    "bytes that no method has",
    "bytes that no header name has",
    "bytes that no header value has",
    "bytes that no target has",
    "Host missing, twice or no authority",
    "target that is no path, or of another authority",
    "request line",
    "chunk sizes and ends",
    "more than 100 headers or 32 KiB",
    "WebSocket upgrade that is none",
    "other upgrades",
    "Connection that names what is not the caller's",
    "words that only we may say",
    "methods about the connection",
];

/// Behind each head, in turn.
const HIDDEN: [&str; 3] = [
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Segue-Call-Id: evil\r\n\r\n\
     GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[derive(Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    clause: &'static str,
}

impl Rows {
    pub(super) fn of(&mut self, clause: &'static str) {
        self.clause = clause;
    }

    pub(super) fn add(&mut self, expect: Expect, head: impl AsRef<[u8]>) {
        let hidden = HIDDEN[self.rows.len() % HIDDEN.len()];
        let bytes = [head.as_ref(), hidden.as_bytes()].concat();
        let (clause, head) = (self.clause, head.as_ref().len());
        self.rows.push(Row {
            clause,
            bytes,
            head,
            expect,
        });
    }

    /// A GET with these header lines.
    pub(super) fn get(&mut self, expect: Expect, lines: &str) {
        self.add(expect, format!("GET /x HTTP/1.1\r\n{lines}\r\n\r\n"));
    }

    /// A POST with these header lines and a body.
    pub(super) fn post(&mut self, expect: Expect, lines: &str, body: &str) {
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}");
        self.add(expect, head);
    }
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Rows::default();
    framing::framing(&mut rows);
    framing::chunks(&mut rows);
    lines(&mut rows);
    bytes(&mut rows);
    target::target(&mut rows);
    target::upgrades(&mut rows);
    target::trust(&mut rows);
    rows.rows
}

fn lines(rows: &mut Rows) {
    let names = [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "X-A",
        "Connection",
        "Cookie",
    ];
    rows.of(CLAUSES[4]);
    for name in names {
        for space in [" ", "  ", "\t", " \t"] {
            let value = if name == "Transfer-Encoding" {
                "chunked"
            } else {
                "5"
            };
            let host = if name == "Host" { "" } else { "Host: a\r\n" };
            rows.get(Refused, &format!("{host}{name}{space}: {value}"));
        }
    }
    rows.of(CLAUSES[5]);
    for name in names {
        for space in [" ", "\t", "  "] {
            let host = if name == "Host" { "" } else { "Host: a\r\n" };
            rows.get(Refused, &format!("{host}{name}: 5\r\n{space}x: y"));
            rows.get(Refused, &format!("{host}{name}:\r\n{space}5"));
        }
    }
    rows.get(Refused, " Host: a");
    rows.get(Refused, "\tHost: a");
    rows.get(Refused, "Host: a\r\n ");
    rows.get(Refused, "Host: a\r\nX-A: b\r\n\t");

    rows.of(CLAUSES[15]);
    for count in [101, 102, 150, 1_000] {
        let many = "A: b\r\n".repeat(count - 1);
        rows.get(Status(431), &format!("{many}Host: a"));
    }
    for kib in [33, 40, 64] {
        let long = "x".repeat(kib * 1_024);
        // So much may lie unread behind the answer that it gets lost.
        rows.get(Refused, &format!("Host: a\r\nA: {long}"));
        rows.get(Refused, &format!("Host: a\r\n{long}: a"));
        rows.add(Refused, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"));
        rows.add(Refused, format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        rows.add(Refused, &long);
    }
    let just = "A: b\r\n".repeat(99);
    rows.get(Once, &format!("{just}Host: a"));
    rows.get(Once, &format!("Host: a\r\nA: {}", "x".repeat(31 * 1_024)));
}

fn bytes(rows: &mut Rows) {
    const WHOLE: &[u8] = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A: b\r\n\r\n";
    rows.of(CLAUSES[6]);
    for byte in *b"\r\n\0" {
        for at in 0..WHOLE.len() {
            // The same head comes out on both sides of such a byte.
            let twin = at > 0 && WHOLE[at - 1] == byte;
            // In front of the last LF, another one is the first byte of the body.
            let body = byte == b'\n' && at == WHOLE.len() - 1;
            if !twin && !body {
                let (before, behind) = WHOLE.split_at(at);
                rows.add(Refused, [before, &[byte], behind, b"abcde"].concat());
            }
        }
    }
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let in_place = |before: &str, byte: u8, behind: &str| {
        [before.as_bytes(), &[byte], behind.as_bytes()].concat()
    };
    for byte in 1..=u8::MAX {
        if matches!(byte, b'\r' | b'\n') {
            continue;
        }
        if !token(byte) {
            rows.of(CLAUSES[7]);
            rows.add(
                Refused,
                in_place("GE", byte, "T /x HTTP/1.1\r\nHost: a\r\n\r\n"),
            );
        }
        if !token(byte) && byte != b':' {
            rows.of(CLAUSES[8]);
            let before = "GET /x HTTP/1.1\r\nHost: a\r\nX-";
            rows.add(Refused, in_place(before, byte, "A: b\r\n\r\n"));
        }
        if byte.is_ascii_control() && byte != b'\t' {
            rows.of(CLAUSES[9]);
            let before = "GET /x HTTP/1.1\r\nHost: a\r\nX-A: b";
            rows.add(Refused, in_place(before, byte, "c\r\n\r\n"));
        }
        if !byte.is_ascii_graphic() || matches!(byte, b'#' | b'\\') {
            rows.of(CLAUSES[10]);
            rows.add(
                Refused,
                in_place("GET /x", byte, "y HTTP/1.1\r\nHost: a\r\n\r\n"),
            );
        }
    }
}
