//! What is done with the bytes of others, and what must be true of it.
//!
//! A target panics when a parser does, and when what it took does not hold together.

use std::io::Write as _;

use segue_core::link::{ToController, ToGateway};
use segue_core::spec::Source;
use tokio::runtime::{Builder, Runtime};

use crate::frames::Observer;
use crate::front::trace;
use crate::handoff;
use crate::http::body::{BodyReader, Turns};
use crate::http::chunked::Decoder;
use crate::http::head::{Framing, read_head};
use crate::http::request::{Request, Wants};
use crate::http::response::{BodyEnd, Response};
use crate::http::values;
use crate::journal;
use crate::relay::MovedCall;

use super::strict::{self, Next, Parsed};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Bytes that are all there never wait; the runtime only lends its clock.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A request and its body as the gateway reads them, and how many bytes that were.
fn read(bytes: &[u8]) -> Option<(Request, Vec<u8>, usize)> {
    block_on(async {
        let (head, behind) = read_head(&mut &*bytes, Vec::new()).await.ok()?;
        let request = Request::parse(&head).ok()?;
        let (turns, rest) = (Turns::default(), behind.len());
        let grace = std::time::Duration::from_mins(1);
        let body = BodyReader::new(&turns, grace);
        let (mut end, framing) = (&b""[..], request.framing);
        let body = body
            .read(&mut end, framing, behind.clone())
            .await
            .ok()?
            .bytes;
        let used = match request.framing {
            Framing::None => 0,
            Framing::Length(_) => body.len(),
            Framing::Chunked => {
                let mut decoder = Decoder::default();
                decoder.step(&behind, |_| {}).ok()?
            }
        };
        assert!(used <= rest, "more was read than there was");
        Some((request, body, head.len() + used))
    })
}

/// What a worker is sent for what a caller sent; `None` for what is refused.
#[cfg(test)]
pub(super) fn relayed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (request, body, _) = read(bytes)?;
    Some(to_worker(&request, &body))
}

fn to_worker(request: &Request, body: &[u8]) -> Vec<u8> {
    let ours = [("X-Segue-Call-Id", "fuzz"), ("X-Forwarded-For", "::1")];
    let length = (request.framing != Framing::None).then_some(body.len());
    let mut message = request.to_worker(&ours, length);
    message.extend_from_slice(body);
    message
}

/// A request: what is relayed is one request, the same one, and ours are the only trusted words.
/// Where a strict reader takes the caller's bytes too, it reads the same in them.
pub(super) fn request(bytes: &[u8]) {
    let Some((request, body, used)) = read(bytes) else {
        return;
    };
    let message = to_worker(&request, &body);
    let Next::Request(parsed, length) = strict::next(&message) else {
        panic!("the worker does not read: {}", message.escape_ascii());
    };
    assert_eq!(
        length,
        message.len(),
        "a second request: {}",
        message.escape_ascii()
    );
    check(&request, &body, &parsed);
    if let Next::Request(raw, length) = strict::next(bytes) {
        assert_eq!(length, used, "another end: {}", bytes.escape_ascii());
        assert_eq!(raw.method, request.method.as_bytes());
        assert_eq!(raw.body, body, "another body");
        // In absolute form it has the authority in front, and perhaps no path.
        assert!(
            raw.target
                .ends_with(request.target.trim_start_matches('/').as_bytes())
        );
    }
}

fn check(request: &Request, body: &[u8], parsed: &Parsed) {
    assert_eq!(parsed.method, request.method.as_bytes());
    assert_eq!(parsed.target, request.target.as_bytes());
    assert_eq!(parsed.body, body);
    let is_call = matches!(request.wants, Wants::WebSocket { .. });
    for (name, value) in &parsed.headers {
        let name = String::from_utf8_lossy(name).replace('_', "-");
        let allowed: &[&[u8]] = match name.as_str() {
            "connection" if is_call => &[b"Upgrade"],
            "connection" => &[b"close"],
            "upgrade" if is_call => &[b"websocket"],
            "x-segue-call-id" => &[b"fuzz"],
            "x-forwarded-for" => &[b"::1"],
            "upgrade" | "transfer-encoding" | "te" | "trailer" | "expect" | "forwarded"
            | "keep-alive" | "proxy-connection" | "proxy" => &[],
            name if name.starts_with("x-segue-") || name.starts_with("x-forwarded-") => &[],
            _ => continue,
        };
        assert!(allowed.contains(&value.as_slice()), "{name} got through");
    }
    let once = ["host", "connection", "x-segue-call-id", "x-forwarded-for"];
    for name in once {
        assert_eq!(parsed.all(name).count(), 1, "{name}");
    }
}

/// A worker's answer: what the caller gets is one head that says the same.
pub(super) fn response(bytes: &[u8]) {
    let head = block_on(read_head(&mut &*bytes, Vec::new()));
    let Ok((head, _)) = head else {
        return;
    };
    let Ok(response) = Response::parse(&head) else {
        return;
    };
    let accepted = response.accepts("dGhlIHNhbXBsZSBub25jZQ==");
    assert!(!accepted || response.status == 101);
    for to_head in [false, true] {
        let end = response.body_end(to_head);
        assert!(!to_head || end == BodyEnd::Length(0));
    }
    let ours = [("X-Segue-Retiring", "true")];
    let written = response.to_caller(&ours);
    let mut raw = [httparse::EMPTY_HEADER; 256];
    let mut again = httparse::Response::new(&mut raw);
    let whole = again.parse(&written);
    assert_eq!(whole, Ok(httparse::Status::Complete(written.len())));
    assert_eq!(again.code, Some(response.status));
    let count = |name: &str| {
        let named = again
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case(name));
        named.count()
    };
    assert_eq!(count("connection"), 1);
    assert_eq!(count("x-segue-retiring"), 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
}

/// A chunked body reads the same in one piece and byte by byte.
pub(super) fn chunked(bytes: &[u8]) {
    let (mut whole, mut data) = (Decoder::default(), Vec::new());
    let used = whole.step(bytes, |part| data.extend_from_slice(part));
    let (mut single, mut slowly, mut at) = (Decoder::default(), Vec::new(), 0);
    let mut failed = false;
    for byte in bytes {
        let step = single.step(&[*byte], |part| slowly.extend_from_slice(part));
        let Ok(used) = step else {
            failed = true;
            break;
        };
        at += used;
    }
    assert_eq!(failed, used.is_err());
    assert!(data.len() <= bytes.len());
    if let Ok(used) = used {
        assert_eq!(
            (used, whole.is_done(), data),
            (at, single.is_done(), slowly)
        );
    }
}

/// Frames are seen alike however they are cut.
pub(super) fn frames(bytes: &[u8]) {
    let mut whole = Observer::default();
    let code = whole.see(bytes);
    let (mut single, mut slowly) = (Observer::default(), None);
    for byte in bytes {
        slowly = slowly.or(single.see(&[*byte]));
    }
    assert_eq!((&whole, code), (&single, slowly));
    let (mut frames, mut rest, mut framed) = (Observer::default(), bytes, None);
    while !rest.is_empty() {
        let (seen, closed) = frames.see_frame(rest);
        assert!(seen > 0, "no step forward");
        framed = framed.or(closed);
        rest = &rest[seen..];
    }
    assert_eq!((&whole, code), (&frames, framed));
}

/// Call ids and the rest, in whatever a strict request holds.
pub(super) fn values(bytes: &[u8]) {
    let (line, form) = bytes.split_at(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    let mut head = b"GET ".to_vec();
    head.extend_from_slice(line);
    head.extend_from_slice(b"\r\n\r\n");
    let Ok(request) = Request::parse(&head) else {
        return;
    };
    let name = || "call_id".to_owned();
    for source in [
        Source::Header(name()),
        Source::Query(name()),
        Source::Cookie(name()),
        Source::Path("/ws/{}/in.json".to_owned()),
        Source::Path("{}".to_owned()),
        Source::Form(name()),
    ] {
        let found = values::find(&[source], &request, Some(form), "/desk");
        if let Some(found) = found {
            assert!(!found.value.is_empty() && found.value.len() <= 1_024);
        }
    }
    if let Some(context) = trace::context(&request.headers) {
        assert!(context.is_ascii() && context.len() <= 256);
    }
}

/// What a gateway that hands over sends, and what one that takes over does.
pub(super) fn handoff(bytes: &[u8]) {
    if let Ok(call) = serde_json::from_slice::<MovedCall>(bytes) {
        let again = serde_json::to_vec(&call).expect("it came from JSON");
        let again: MovedCall = serde_json::from_slice(&again).expect("we wrote it");
        assert_eq!(again, call);
    }
    handoff::fuzz(bytes);
}

/// A journal that anything may have happened to.
pub(super) fn journal(bytes: &[u8]) {
    let file = std::env::temp_dir().join(format!("segue-fuzz-{}.journal", std::process::id()));
    let mut written = std::fs::File::create(&file).expect("a file");
    written.write_all(bytes).expect("room");
    journal::read(&file).expect("a file that can be read");
    // Another thread may have removed it; it is only litter.
    let _ = std::fs::remove_file(&file);
}

/// Messages between controller and gateway.
pub(super) fn link(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<ToGateway>(bytes) {
        let again = serde_json::to_vec(&message).expect("it came from JSON");
        assert_eq!(
            serde_json::from_slice::<ToGateway>(&again).ok(),
            Some(message)
        );
    }
    if let Ok(message) = serde_json::from_slice::<ToController>(bytes) {
        let again = serde_json::to_vec(&message).expect("it came from JSON");
        assert_eq!(
            serde_json::from_slice::<ToController>(&again).ok(),
            Some(message)
        );
    }
}

/// A configuration: faults have places in the file, and good ones are read the same again.
pub(super) fn spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let first = segue_core::spec::parse("fuzz.toml", &text);
    assert!(first.as_ref().err().is_none_or(|faults| !faults.is_empty()));
    assert_eq!(first, segue_core::spec::parse("fuzz.toml", &text));
}
