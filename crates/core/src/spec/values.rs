//! What a single value may say. Each reader takes an item and returns the value, or reports one
//! fault at the item and returns `None`.

use std::fmt::Display;
use std::net::SocketAddr;

use super::bounds::{self, Bound};
use super::reader::{Item, quoted};
use crate::split::Share;
use crate::time::Millis;

/// Units of a duration, each with its milliseconds. `ms` comes before `s` and `m`: the longest
/// suffix must be tried first.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Parts of a share (basis points) in one percent.
const SHARE_PER_PERCENT: u64 = 100;

/// Most digits on either side of the point; their product with a unit still fits 64 bits.
const DIGITS_MAX: usize = 9;

/// A whole number.
pub(super) fn whole<T>(item: Item<'_>, bound: &Bound<T>) -> Option<T>
where
    T: PartialOrd + Display + TryFrom<u64>,
{
    let Some((digits, radix)) = item.integer() else {
        return item.not_a("a whole number", "write it in digits, without quotes");
    };
    let value = u64::from_str_radix(digits, radix).ok();
    let value = value.and_then(|value| T::try_from(value).ok());
    match value {
        Some(value) if bound.holds(&value) => Some(value),
        _ => item.outside(digits, bound, bound.why),
    }
}

/// A length of time: one number and one unit.
pub(super) fn duration(item: Item<'_>, bound: &Bound<Millis>) -> Option<Millis> {
    const HINT: &str = "write one number and one of ms, s, m, h: \"250ms\", \"30s\", \"1.5h\"";
    let Some(text) = item.string() else {
        let hint = item.number().map_or_else(
            || HINT.to_owned(),
            |number| format!("write \"{number}s\" for seconds; units are ms, s, m, h"),
        );
        return item.not_a("a duration", hint);
    };
    let parsed = UNITS
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?.trim_end(), *factor)))
        .and_then(|(number, factor)| scaled(number, factor));
    match parsed.map(Millis) {
        Some(length) if bound.holds(&length) => Some(length),
        Some(_) => item.outside(&quoted(text), bound, bound.why),
        None => item.fault(
            format!("`{}`: {} is not a duration", item.name, quoted(text)),
            HINT,
        ),
    }
}

/// A share: a percentage with at most two decimals.
pub(super) fn share(item: Item<'_>, bound: &Bound<Share>) -> Option<Share> {
    const HINT: &str = "write a percentage with at most two decimals: \"10%\", \"2.5%\"";
    let Some(text) = item.string() else {
        let hint = item
            .number()
            .map_or_else(|| HINT.to_owned(), |number| format!("write \"{number}%\""));
        return item.not_a("a share", hint);
    };
    let parsed = text
        .strip_suffix('%')
        .and_then(|number| scaled(number.trim_end(), SHARE_PER_PERCENT));
    let Some(points) = parsed else {
        let message = format!("`{}`: {} is not a share", item.name, quoted(text));
        return item.fault(message, HINT);
    };
    match u16::try_from(points).map(Share) {
        Ok(share) if bound.holds(&share) => Some(share),
        _ => item.outside(&quoted(text), bound, bound.why),
    }
}

/// A decimal number times a factor, if it is exactly a whole number: `scaled("1.5", 60)` is 90.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let digits = |text: &str| {
        let good = (1..=DIGITS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.parse::<u64>().ok()).flatten()
    };
    let Some((whole, decimals)) = number.split_once('.') else {
        return Some(digits(number)? * factor);
    };
    let scale = 10_u64.pow(u32::try_from(decimals.len().min(DIGITS_MAX)).ok()?);
    let rest = digits(decimals)? * factor;
    rest.is_multiple_of(scale)
        .then_some(digits(whole)? * factor + rest / scale)
}

/// An IP address and a port.
pub(super) fn listen(item: Item<'_>, example: SocketAddr) -> Option<SocketAddr> {
    let text = item.text()?;
    text.parse().ok().or_else(|| {
        item.fault(
            format!(
                "`{}`: {} is not an IP address and a port",
                item.name,
                quoted(text)
            ),
            format!("write it like \"{example}\""),
        )
    })
}

/// What may follow the path in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// A query, as a request has one.
    Allowed,
    /// Nothing: it is compared with the path alone.
    Refused,
}

/// A request path.
pub(super) fn path(item: Item<'_>, query: Query) -> Option<&str> {
    let text = item.text()?;
    let fault = |what: &str, hint: &str| {
        item.fault(format!("`{}`: {} {what}", item.name, quoted(text)), hint)
    };
    if !text.starts_with('/') {
        let hint = format!("write {}", quoted(&format!("/{text}")));
        return fault("does not start with `/`", &hint);
    }
    if let Some(bad) = text.chars().find(|char| !char.is_ascii_graphic()) {
        return fault(
            &format!("contains {bad:?}"),
            "percent-encode spaces and what is not ASCII",
        );
    }
    if text.contains('#') {
        return fault("contains `#`", "a fragment is never sent; leave it out");
    }
    if query == Query::Refused && text.contains('?') {
        return fault("contains a query", "end it before the `?`");
    }
    Some(text)
}

/// A header or cookie name, as it is given.
pub(super) fn token<'a>(item: Item<'a>, what: &str, text: &'a str) -> Option<&'a str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(good) {
        return item.fault(
            format!("`{}`: {} is not a {what} name", item.name, quoted(text)),
            "use letters, digits and `-`, without spaces or a colon",
        );
    }
    Some(text)
}

/// A host name or address as it is in a `Host` header, without the port; in lower case.
pub(super) fn host(item: Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let fault = |what: &str, hint: String| {
        item.fault(format!("`{}`: {} {what}", item.name, quoted(text)), hint)
    };
    let is_name = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    let is_address = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if is_name || is_address {
        return Some(text.to_ascii_lowercase());
    }
    if text.contains('*') {
        return fault(
            "is a wildcard",
            "name each host, or leave `hosts` out to take any".to_owned(),
        );
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !name.contains(['/', ':'])
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return fault("has a port", format!("write {}", quoted(name)));
    }
    fault(
        "is not a host name",
        "write only the host, such as \"calls.example.com\"".to_owned(),
    )
}

/// One of a few words.
pub(super) fn word<T: Copy>(item: Item<'_>, words: &[(&str, T)], why: &str) -> Option<T> {
    let text = item.text()?;
    let found = words.iter().find(|(word, _)| *word == text);
    if let Some((_, value)) = found {
        return Some(*value);
    }
    let known: Vec<String> = words
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    let (last, rest) = known.split_last()?;
    let bound = format!("{} or {last}", rest.join(", "));
    item.outside(&quoted(text), bound, why)
}

/// An address that is called: `http` or `https`, a host, and nothing that others would read
/// differently.
pub(super) fn url(item: Item<'_>) -> Option<String> {
    const HINT: &str = "write it like \"https://example.com/path\"";
    let text = item.filled()?;
    let fault = |what: &str, hint: &str| {
        item.fault(format!("`{}`: {} {what}", item.name, quoted(text)), hint)
    };
    if text.len() > bounds::URL_BYTES_MAX {
        return fault("is too long", "2048 bytes are enough for any address");
    }
    if let Some(bad) = text.chars().find(|char| !char.is_ascii_graphic()) {
        return fault(
            &format!("contains {bad:?}"),
            "percent-encode spaces and what is not ASCII",
        );
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return fault("is not an address with a scheme", HINT);
    };
    if !matches!(scheme, "http" | "https") {
        return fault(
            &format!("has the scheme {}", quoted(scheme)),
            "only http and https are called",
        );
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return fault(
            "contains a user or password",
            "sign the body with `secret_file` instead; addresses end up in logs",
        );
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    let named = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if !bracketed && !named {
        return fault("names no host", HINT);
    }
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return fault("has a port that is none", "ports go from 1 to 65535");
    }
    if text.contains('#') {
        return fault("contains `#`", "a fragment is never sent; leave it out");
    }
    Some(text.to_owned())
}

/// An address or a network: `127.0.0.1`, `10.0.0.0/8`.
pub(super) fn network(item: Item<'_>) -> Option<String> {
    const HINT: &str = "write an address or a network: \"127.0.0.1\", \"10.0.0.0/8\"";
    let text = item.filled()?;
    let fault = |what: &str, hint: &str| {
        item.fault(format!("`{}`: {} {what}", item.name, quoted(text)), hint)
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return fault("is not an address or a network", HINT);
    };
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix else {
        return Some(text.to_owned());
    };
    let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
    let length = prefix
        .parse::<u32>()
        .ok()
        .filter(|length| digits && *length <= bits);
    let Some(length) = length else {
        return fault(&format!("must end in 0 to {bits}"), HINT);
    };
    let value = match address {
        std::net::IpAddr::V4(address) => u128::from(address.to_bits()),
        std::net::IpAddr::V6(address) => address.to_bits(),
    };
    let host = u128::MAX.checked_shr(128 - (bits - length)).unwrap_or(0);
    if value & host != 0 {
        return fault(
            "is an address inside of its network",
            "leave the length out for this address alone, or write zeros after it",
        );
    }
    Some(text.to_owned())
}

/// Items that are read one by one; `None` if any is bad.
pub(super) fn each<'a, T>(
    item: Item<'a>,
    count_max: usize,
    read: impl Fn(Item<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let read: Vec<_> = item
        .items_or_one(count_max)?
        .into_iter()
        .map(read)
        .collect();
    read.into_iter().collect()
}

/// The names in `{name}` and `{name.url}`. Braces around anything but letters, digits, `_`, `-` and
/// a dot in between are ordinary text, so that JSON needs no escapes.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    text.split('{').skip(1).filter_map(move |rest| {
        let (name, _) = rest.split_once('}')?;
        let dotted = name.contains('.');
        // `{1.5}` and `{.}` are no names of anything.
        let named = !dotted || name.starts_with(|c: char| c.is_ascii_alphabetic());
        (!name.is_empty() && named && name.bytes().all(good)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        for (number, factor, value) in [
            ("1.5", 60, Some(90)),
            ("0.25", 100, Some(25)),
            ("10", 100, Some(1_000)),
            ("0.001", 1_000, Some(1)),
            ("0.0001", 1_000, None),
            ("2.555", 100, None),
            ("", 1, None),
            (".5", 10, None),
            ("5.", 10, None),
            ("-1", 1, None),
            ("+1", 1, None),
            ("1.2.3", 1_000, None),
            ("9999999999", 1, None),
            ("999999999.999999999", 3_600_000, None),
        ] {
            assert_eq!(scaled(number, factor), value, "{number}");
        }
    }

    #[test]
    fn placeholders_are_names_in_braces() {
        let names = |text| placeholders(text).collect::<Vec<_>>();
        assert_eq!(names("--port={port} {b} {}"), ["port", "b"]);
        assert_eq!(names("{\"a\": {\"b\": 1}}"), [""; 0]);
        assert_eq!(names("{{port}}"), ["port"]);
        assert_eq!(names("{open"), [""; 0]);
        assert_eq!(
            names("{engine.url} {1.5} {.} {a.b.c}"),
            ["engine.url", "a.b.c"]
        );
    }
}
