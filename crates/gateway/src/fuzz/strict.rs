//! A second reader of HTTP/1.1 requests, for tests: by the grammar of RFC 9112 and nothing else.
//!
//! It shares no line with the reader of the gateway, so that the two do not err alike. It is as
//! strict as a reader can be; a worker that is laxer is no worse off for what this one takes.

/// A request that is exactly what the grammar says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The method.
    pub method: Vec<u8>,
    /// The request target.
    pub target: Vec<u8>,
    /// Names in lower case, values without the space around them.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Parsed {
    /// The values of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_bytes();
        let of_name = self.headers.iter().filter(move |(known, _)| known == name);
        of_name.map(|(_, value)| value.as_slice())
    }
}

/// What the bytes begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A whole request, and how many bytes it has.
    Request(Parsed, usize),
    /// The beginning of one, perhaps.
    Part,
    /// No request.
    Bad(&'static str),
}

/// Reads the first request of a stream.
pub fn next(bytes: &[u8]) -> Next {
    match read(bytes) {
        Ok((request, length)) => Next::Request(request, length),
        Err(None) => Next::Part,
        Err(Some(why)) => Next::Bad(why),
    }
}

/// `None`: the bytes end too early.
type Stop = Option<&'static str>;

fn read(bytes: &[u8]) -> Result<(Parsed, usize), Stop> {
    let mut at = 0;
    let first = line(bytes, &mut at)?;
    let mut words = first.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Some("request line"));
    };
    if version != b"HTTP/1.1" {
        return Err(Some("version"));
    }
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Some("method"));
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Some("target"));
    }
    let mut headers = Vec::new();
    loop {
        let header = line(bytes, &mut at)?;
        if header.is_empty() {
            break;
        }
        let colon = header.iter().position(|byte| *byte == b':');
        let (name, value) = header.split_at(colon.ok_or(Some("no colon"))?);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Some("name"));
        }
        let text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        if !value.iter().all(text) {
            return Err(Some("value"));
        }
        headers.push((name.to_ascii_lowercase(), trimmed(&value[1..]).to_vec()));
    }
    let mut request = Parsed {
        method: method.to_vec(),
        target: target.to_vec(),
        headers,
        body: Vec::new(),
    };
    if request.all("host").count() != 1 {
        return Err(Some("host"));
    }
    request.body = body(&request, bytes, &mut at)?;
    Ok((request, at))
}

fn body(request: &Parsed, bytes: &[u8], at: &mut usize) -> Result<Vec<u8>, Stop> {
    let lengths: Vec<_> = request.all("content-length").collect();
    let codings: Vec<_> = request.all("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Vec::new()),
        ([length], []) => {
            let length = number(length, 10).ok_or(Some("length"))?;
            Ok(take(bytes, at, length)?.to_vec())
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => {
            let mut body = Vec::new();
            loop {
                let size = line(bytes, at)?;
                let digits = size.split(|byte| *byte == b';').next();
                let size = number(digits.unwrap_or(size), 16).ok_or(Some("chunk size"))?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(take(bytes, at, size)?);
                if take(bytes, at, 2)? != b"\r\n" {
                    return Err(Some("chunk end"));
                }
            }
            loop {
                let trailer = line(bytes, at)?;
                let name = trailer.iter().position(|byte| *byte == b':');
                match name {
                    _ if trailer.is_empty() => return Ok(body),
                    Some(1..) if trailer[..name.unwrap_or(0)].iter().all(|b| is_token(*b)) => {}
                    _ => return Err(Some("trailer")),
                }
            }
        }
        _ => Err(Some("framing")),
    }
}

/// Up to CRLF, which is no part of it.
fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], Stop> {
    let rest = bytes.get(*at..).ok_or(None)?;
    let control = |byte: &u8| matches!(byte, 0 | b'\n' | b'\r');
    let end = rest.iter().position(control).ok_or(None)?;
    match rest[end..] {
        [b'\r', b'\n', ..] => {
            *at += end + 2;
            Ok(&rest[..end])
        }
        [b'\r'] => Err(None),
        _ => Err(Some("line end")),
    }
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, length: usize) -> Result<&'a [u8], Stop> {
    let end = at.checked_add(length).ok_or(Some("length"))?;
    let taken = bytes.get(*at..end).ok_or(None)?;
    *at = end;
    Ok(taken)
}

fn number(digits: &[u8], base: u32) -> Option<usize> {
    let value = |sum: Option<usize>, byte: &u8| {
        let digit = char::from(*byte).to_digit(base)?;
        sum?.checked_mul(base as usize)?.checked_add(digit as usize)
    };
    (!digits.is_empty()).then(|| digits.iter().fold(Some(0), value))?
}

fn trimmed(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte));
    let end = value.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
