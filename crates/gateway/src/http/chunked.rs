//! The chunked coding, read strictly: a size is one to eight hexadecimal digits and nothing else
//! before an extension, lines end in CRLF, and trailers are few and dropped.

use super::head::Malformed;

/// Longest line of a chunk size or of a trailer, in bytes.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// Most trailer lines.
const TRAILERS_MAX: u32 = 16;

const SIZE_DIGITS_MAX: usize = 8;

/// Steps through a chunked body.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    step: Step,
    line: Vec<u8>,
    trailers: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Size,
    Data {
        left: u64,
    },
    /// The CRLF behind the data; how much of it was seen.
    DataEnd {
        seen: usize,
    },
    Trailer,
    Done,
}

impl Decoder {
    pub(crate) fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Steps over the next bytes of the stream and passes data on. Answers how many bytes belong
    /// to the body; fewer than given only when it is done.
    pub(crate) fn step(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.step {
                Step::Done => break,
                Step::Data { left } => {
                    let rest = &bytes[at..];
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    data(&rest[..taken]);
                    at += taken;
                    *left -= taken as u64;
                    if *left == 0 {
                        self.step = Step::DataEnd { seen: 0 };
                    }
                }
                Step::DataEnd { seen } => {
                    if bytes[at] != b"\r\n"[*seen] {
                        return Err(Malformed("a chunk is longer than its size"));
                    }
                    at += 1;
                    *seen += 1;
                    if *seen == 2 {
                        self.step = Step::Size;
                    }
                }
                Step::Size | Step::Trailer => {
                    self.line.push(bytes[at]);
                    at += 1;
                    self.on_line()?;
                }
            }
        }
        Ok(at)
    }

    fn on_line(&mut self) -> Result<(), Malformed> {
        let line = match self.line.as_slice() {
            [line @ .., b'\r', b'\n'] => line,
            [.., b'\n'] => return Err(Malformed("a bare LF in the chunked coding")),
            [.., b'\r', _] | [.., 0] => return Err(Malformed("a bad byte in the chunked coding")),
            line if line.len() > LINE_BYTES_MAX => {
                return Err(Malformed("a line of the chunked coding is too long"));
            }
            _ => return Ok(()),
        };
        self.step = if self.step == Step::Trailer {
            self.trailers += 1;
            if self.trailers > TRAILERS_MAX {
                return Err(Malformed("too many trailers"));
            }
            if line.is_empty() {
                Step::Done
            } else if is_field(line) {
                Step::Trailer
            } else {
                return Err(Malformed("a trailer is no header line"));
            }
        } else {
            match size(line)? {
                0 => Step::Trailer,
                left => Step::Data { left },
            }
        };
        self.line.clear();
        Ok(())
    }
}

/// Whether a line is a header line as far as that it cannot be taken for anything else.
fn is_field(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or(line);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let (named, value) = line.split_at(name.len());
    !named.is_empty() && named.iter().all(token) && !value.is_empty() && !has_control(value)
}

fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|b| b.is_ascii_control() && *b != b'\t')
}

fn size(line: &[u8]) -> Result<u64, Malformed> {
    if has_control(line) {
        return Err(Malformed("a control character behind a chunk size"));
    }
    let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
    let good =
        (1..=SIZE_DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| good);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(Malformed("a chunk size is no plain hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut decoder, mut data, mut used) = (Decoder::default(), Vec::new(), 0);
        for part in body.chunks(cut) {
            used += decoder.step(part, |bytes| data.extend_from_slice(bytes))?;
        }
        Ok((data, used, decoder.is_done()))
    }

    #[test]
    fn good_bodies_in_every_cut() {
        let body = b"5\r\nhello\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nTrail: er\r\n\r\nnext";
        for cut in 1..body.len() {
            let (data, used, done) = decode(body, cut).unwrap();
            assert_eq!(data, b"hello0123456789");
            assert_eq!((used, done), (body.len() - 4, true));
        }
    }

    #[test]
    fn bad_sizes_and_ends() {
        for bad in [
            &b"0x5\r\nhello\r\n"[..],
            b"-5\r\n",
            b"+5\r\n",
            b"5 \r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"\r\n",
            b"fffffffff\r\n",
            b"5\nhello\r\n",
            b"5\r\nhello!\r\n",
            b"5\r\nhello\n",
            b"0\r\n\n",
            b"0\r\na: b\n\r\n",
            b"5;a\x0bb\r\nhello\r\n",
            b"0\r\nGET / HTTP/1.1\r\n\r\n",
            b"0\r\na : b\r\n\r\n",
            b"0\r\n a: b\r\n\r\n",
            b"0\r\na: \x01\r\n\r\n",
        ] {
            for cut in 1..=bad.len() {
                assert!(
                    decode(bad, cut).is_err(),
                    "{:?}",
                    String::from_utf8_lossy(bad)
                );
            }
        }
    }
}
