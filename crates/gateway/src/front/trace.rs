//! The caller's trace context (W3C Trace Context, level 1).
//!
//! It goes to the worker as it came, like any other header. Here it is only read, so that what we
//! report of the call can be joined to the caller's trace. One that is not good is no context, and
//! none is made up.

use crate::http::head::Headers;

/// Longest one that is kept: later versions may be longer than the 55 bytes of this one.
const BYTES_MAX: usize = 256;

/// The request's trace context, if there is exactly one and it is good.
pub(crate) fn context(headers: &Headers) -> Option<String> {
    let value = headers.only("traceparent").ok().flatten()?;
    is_good(value).then(|| value.to_owned())
}

fn is_good(value: &str) -> bool {
    let mut parts = value.split('-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |part: &str| part.bytes().any(|byte| byte != b'0');
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && set(trace)
        && hex(parent, 16)
        && set(parent)
        && hex(flags, 2)
        && (version != "00" || parts.next().is_none())
        && value.bytes().all(|byte| byte.is_ascii_graphic())
        && value.len() <= BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_what_the_standard_allows_is_a_context() {
        assert!(is_good(GOOD));
        assert!(is_good(&format!("cc{}-what-the-future-brings", &GOOD[2..])));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &GOOD.replace("4bf9", "4BF9"),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-0g"),
            &format!("cc{}-{}", &GOOD[2..], "x".repeat(BYTES_MAX)),
            &format!("cc{}-\u{eb}", &GOOD[2..]),
            &format!("cc{}-a b", &GOOD[2..]),
        ] {
            assert!(!is_good(bad), "{bad}");
        }
    }
}
