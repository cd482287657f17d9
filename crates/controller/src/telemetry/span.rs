//! A span, and how OTLP writes it down in JSON.
//!
//! These few lines stand in for the `OpenTelemetry` SDK. It wants to be there when a span begins and
//! when it ends, and makes up ids; ours are made from what was decided, afterwards, with times and
//! ids that a restarted controller makes again. It would also bring an HTTP client of its own past
//! the one that knows where it may call.

use segue_core::names::hex;
use segue_core::time::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Identity of a trace.
pub(super) type TraceId = [u8; 16];
/// Identity of a span in it.
pub(super) type SpanId = [u8; 8];

/// What kind of span it is: OTLP's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub(super) failed: Option<String>,
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The same from the same parts. Never all zeroes, which would be no id.
pub(super) fn trace_id(parts: &[&str]) -> TraceId {
    let mut id = [0; 16];
    id.copy_from_slice(&digest(parts)[..16]);
    id[0] |= 1;
    id
}

/// The same from the same parts. Never all zeroes.
pub(super) fn span_id(parts: &[&str]) -> SpanId {
    let mut id = [0; 8];
    id.copy_from_slice(&digest(parts)[..8]);
    id[0] |= 1;
    id
}

/// The parent that a caller names in `traceparent`, and whether it is recorded. `None`: it names
/// none that can be understood (W3C Trace Context, version 00 and later).
pub(super) fn traceparent(text: &str) -> Option<(TraceId, SpanId, bool)> {
    let mut parts = text.split('-');
    let version: [u8; 1] = bytes(parts.next()?)?;
    let trace: TraceId = bytes(parts.next()?)?;
    let span: SpanId = bytes(parts.next()?)?;
    let flags: [u8; 1] = bytes(parts.next()?)?;
    let more = parts.next().is_some();
    let good = version != [0xff] && trace != [0; 16] && span != [0; 8];
    (good && (version != [0] || !more)).then_some((trace, span, flags[0] & 1 == 1))
}

/// Reads lower-case hexadecimal of exactly this many bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    let mut bytes = [0; N];
    if text.len() != N * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(bytes)
}

impl Span {
    fn json(&self) -> Value {
        let nanos = |at: Timestamp| (u128::from(at.0) * 1_000_000).to_string();
        let attributes = self.attributes.iter();
        let attributes: Vec<Value> = attributes.map(|(key, is)| attribute(key, is)).collect();
        let status = match &self.failed {
            Some(why) => json!({ "code": 2, "message": why }),
            None => json!({}),
        };
        let mut span = json!({
            "traceId": hex(&self.trace),
            "spanId": hex(&self.id),
            "name": self.name,
            "kind": self.kind as u8,
            "startTimeUnixNano": nanos(self.start),
            "endTimeUnixNano": nanos(self.end.max(self.start)),
            "attributes": attributes,
            "status": status,
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = json!(hex(&parent));
        }
        span
    }
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(is) => json!({ "boolValue": is }),
        // 64 bits do not fit a number of JSON: OTLP writes them as text.
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            json!({ "intValue": number.to_string() })
        }
        Value::Number(number) => json!({ "doubleValue": number }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": key, "value": value })
}

/// A request of `POST /v1/traces`.
pub(super) fn request(spans: &[Span]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [
        attribute("service.name", &json!("segue")),
        attribute("service.version", &json!(version)),
    ];
    let spans: Vec<Value> = spans.iter().map(Span::json).collect();
    json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{
                "scope": { "name": "segue", "version": version },
                "spans": spans,
            }],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_goes_on_if_it_can_be_read() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, span, sampled) = traceparent(good).unwrap();
        assert_eq!(hex(&trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((hex(&span).as_str(), sampled), ("b7ad6b7169203331", true));
        let quiet = good.replace("-01", "-00");
        assert!(!traceparent(&quiet).unwrap().2);
        let later = good.replace("00-0af", "01-0af") + "-what-the-future-brings";
        assert!(traceparent(&later).is_some());
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-é7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(traceparent(bad), None, "{bad}");
        }
    }

    #[test]
    fn otlp_writes_large_numbers_as_text() {
        let span = Span {
            trace: trace_id(&["t"]),
            id: span_id(&["s"]),
            parent: None,
            name: "rollout".to_owned(),
            kind: Kind::Internal,
            start: Timestamp(1_769_850_300_250),
            end: Timestamp(1_769_850_300_000),
            attributes: vec![("n", json!(7)), ("s", json!("x")), ("b", json!(true))],
            failed: Some("why".to_owned()),
        };
        let request = request(&[span]);
        let span = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["startTimeUnixNano"], "1769850300250000000");
        assert_eq!(
            span["endTimeUnixNano"], "1769850300250000000",
            "never before"
        );
        assert_eq!(span["attributes"][0]["value"]["intValue"], "7");
        assert_eq!(span["attributes"][2]["value"]["boolValue"], true);
        assert_eq!(span["status"]["code"], 2);
        assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
        assert_eq!(span.get("parentSpanId"), None);
    }
}
