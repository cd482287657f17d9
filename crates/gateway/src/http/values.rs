//! Finding call ids, cohorts, callers and tenants in a request.

use segue_core::spec::Source;

use super::request::Request;

/// Longest value that is looked at, in bytes: room for any id, and a bound for what is hashed.
const VALUE_BYTES_MAX: usize = 1_024;

/// The first of the sources that is there and not empty. `form` is the body, if it is a form;
/// `prefix` the agent's path prefix, in front of which path templates may stand.
pub(crate) fn find(
    sources: &[Source],
    request: &Request,
    form: Option<&[u8]>,
    prefix: &str,
) -> Option<Found> {
    sources.iter().find_map(|source| {
        let value = match source {
            Source::Header(name) => request.headers.text(name).map(str::to_owned),
            Source::Query(name) => pair(request.query(), name),
            Source::Cookie(name) => cookie(request, name),
            Source::Path(template) => {
                let path = request.path();
                let inner = path.strip_prefix(prefix.trim_end_matches('/'));
                segment(path, template).or_else(|| segment(inner?, template))
            }
            Source::Form(name) => pair(std::str::from_utf8(form?).ok()?, name),
        };
        let value = value.filter(|value| !value.is_empty() && value.len() <= VALUE_BYTES_MAX)?;
        let from_cookie = matches!(source, Source::Cookie(_));
        Some(Found { value, from_cookie })
    })
}

/// A value and what it says about its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: String,
    pub(crate) from_cookie: bool,
}

fn pair(pairs: &str, name: &str) -> Option<String> {
    pairs.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key, true).as_deref() == Some(name)).then(|| decode(value, true))?
    })
}

fn cookie(request: &Request, name: &str) -> Option<String> {
    let mut lines = request.headers.all("cookie").filter_map(|h| h.text());
    lines.find_map(|line| {
        line.split(';').find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.trim_matches('"').to_owned())
        })
    })
}

/// The segment in the place of `{}`.
fn segment(path: &str, template: &str) -> Option<String> {
    let (before, after) = template.split_once("{}")?;
    let rest = path.strip_prefix(before)?;
    let end = rest.find('/').unwrap_or(rest.len());
    // A suffix may share the segment, as in `/ws/{}.json`.
    let inner = after.split('/').next().unwrap_or("");
    let value = rest[..end].strip_suffix(inner)?;
    let behind = rest[value.len()..].strip_prefix(after)?;
    if !(behind.is_empty() || behind.starts_with('/')) {
        return None;
    }
    decode(value, false)
}

/// Percent-decoding; `None` for what does not decode to text.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                let digits = std::str::from_utf8(digits).ok()?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: Source, target: &str, header: &str, form: Option<&[u8]>) -> Option<String> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        let request = Request::parse(head.as_bytes()).unwrap();
        find(&[source], &request, form, "/desk/").map(|found| found.value)
    }

    #[test]
    fn every_source_in_its_forms() {
        let path = |template: &str| Source::Path(template.to_owned());
        let query = || Source::Query("call_id".to_owned());
        let header = || Source::Header("x-call-id".to_owned());
        let cookie = || Source::Cookie("segue_call".to_owned());
        let form = || Source::Form("CallSid".to_owned());
        let table = [
            (path("/ws/{}"), "/ws/CA1?x=y", "A: b", Some("CA1")),
            (path("/ws/{}"), "/ws/CA1/media", "A: b", Some("CA1")),
            (path("/ws/{}"), "/desk/ws/CA1", "A: b", Some("CA1")),
            (path("/ws/{}/in"), "/ws/CA1/in", "A: b", Some("CA1")),
            (path("/ws/{}/in"), "/ws/CA1/out", "A: b", None),
            (path("/ws/{}.json"), "/ws/CA1.json", "A: b", Some("CA1")),
            (path("/ws/{}"), "/other/CA1", "A: b", None),
            (path("/ws/{}"), "/ws/", "A: b", None),
            (query(), "/?a=b&call_id=x%2Dy", "A: b", Some("x-y")),
            (query(), "/?call_id=", "A: b", None),
            (query(), "/?call_id=%zz", "A: b", None),
            (header(), "/", "X-Call-Id: h1", Some("h1")),
            (cookie(), "/", "Cookie: a=b; segue_call=c1", Some("c1")),
            (form(), "/", "A: b", Some("CA 9")),
        ];
        for (source, target, line, expected) in table {
            let value = found(
                source.clone(),
                target,
                line,
                Some(b"From=%2B1&CallSid=CA+9"),
            );
            assert_eq!(value.as_deref(), expected, "{source:?} in {target} {line}");
        }
        assert_eq!(found(form(), "/", "A: b", None), None);
    }
}
