//! The frames of a call, and how the generator knows that one came back as it was sent.
//!
//! A payload says whose it is and which one it is, and the rest follows from both: it is rebuilt
//! when it comes back and compared byte by byte. A relay cannot lose, repeat, swap or change one
//! without it being seen.

/// One frame of audio: 20 ms of linear 16-bit sound at 16 kHz.
pub(crate) const PAYLOAD_BYTES: usize = 640;

const FIN_BINARY: u8 = 0x82;
const FIN_CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
const LENGTH_16_BITS: u8 = 126;
const LENGTH_64_BITS: u8 = 127;

/// The key of every handshake, and what RFC 6455 has a server make of it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// See [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Opcode of a frame with sound.
pub(crate) const BINARY: u8 = 0x2;
/// Opcode of the last frame.
pub(crate) const CLOSE: u8 = 0x8;

/// A close frame with code 1000 and a mask of zeros.
pub(crate) const MASKED_CLOSE: [u8; 8] = [FIN_CLOSE, MASKED | 2, 0, 0, 0, 0, 0x03, 0xe8];

/// A caller's request.
pub(crate) fn request(number: u32) -> Vec<u8> {
    format!(
        "GET /call HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nX-Call-Id: bench-{number}\r\n\r\n"
    )
    .into_bytes()
}

/// An agent's answer.
pub(crate) fn answer() -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
    .into_bytes()
}

/// Where a head ends, once it is whole.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// `SplitMix64`: a handful of instructions for eight bytes that look random.
fn scramble(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a call of this number has for a phase, a mask, and whatever else should look random.
pub(crate) fn random(call: u32, what: u32) -> u64 {
    scramble(&mut (u64::from(call) << 32 | u64::from(what)))
}

/// Fills in payload `sequence` of a call.
pub(crate) fn fill(payload: &mut [u8; PAYLOAD_BYTES], call: u32, sequence: u32) {
    let mut state = u64::from(call) << 32 | u64::from(sequence);
    let (words, _) = payload.as_chunks_mut::<8>();
    words[0] = state.to_le_bytes();
    for word in &mut words[1..] {
        *word = scramble(&mut state).to_le_bytes();
    }
}

/// What came back in the place of payload `expected` of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// That payload, every byte.
    Right,
    /// A later one, right in itself: those between are missing.
    Later(u32),
    /// An earlier one again.
    Earlier,
    /// Bytes of nobody's.
    Wrong,
}

/// Compares a payload with the one that should come now.
pub(crate) fn check(payload: &[u8], call: u32, expected: u32) -> Echo {
    let Some((head, _)) = payload.split_first_chunk::<8>() else {
        return Echo::Wrong;
    };
    let mut built = [0; PAYLOAD_BYTES];
    let head = u64::from_le_bytes(*head);
    let sequence = u32::try_from(head & u64::from(u32::MAX)).expect("32 bits");
    fill(&mut built, call, sequence);
    if payload != built {
        return Echo::Wrong;
    }
    match sequence.cmp(&expected) {
        std::cmp::Ordering::Equal => Echo::Right,
        std::cmp::Ordering::Greater => Echo::Later(sequence),
        std::cmp::Ordering::Less => Echo::Earlier,
    }
}

/// Adds a caller's frame to what goes out.
pub(crate) fn masked_frame(out: &mut Vec<u8>, call: u32, sequence: u32) {
    let mut payload = [0; PAYLOAD_BYTES];
    fill(&mut payload, call, sequence);
    let [a, b, c, d, ..] = random(!call, sequence).to_le_bytes();
    let mask = [a, b, c, d];
    apply_mask(&mut payload, mask);
    let length = u16::try_from(PAYLOAD_BYTES).expect("640");
    out.extend([FIN_BINARY, MASKED | LENGTH_16_BITS]);
    out.extend(length.to_be_bytes());
    out.extend(mask);
    out.extend(payload);
}

/// Masks or unmasks.
pub(crate) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_le_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ wide).to_le_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// An agent's frame of the same kind and payload.
pub(crate) fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(length) if payload.len() < usize::from(LENGTH_16_BITS) => {
            out.push(length.to_be_bytes()[1]);
        }
        Ok(length) => {
            out.push(LENGTH_16_BITS);
            out.extend(length.to_be_bytes());
        }
        Err(_) => {
            out.push(LENGTH_64_BITS);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(payload);
}

/// A header that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the frame is.
    pub(crate) opcode: u8,
    /// Bytes of the header itself.
    pub(crate) bytes: usize,
    /// Bytes behind it.
    pub(crate) payload: usize,
    /// `None` for an agent's.
    pub(crate) mask: Option<[u8; 4]>,
}

/// Reads a header; `None` until it is whole.
pub(crate) fn header(bytes: &[u8]) -> Option<Header> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (payload, rest, mut length) = match second & !MASKED {
        LENGTH_16_BITS => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest, 4)
        }
        LENGTH_64_BITS => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
            (length, rest, 10)
        }
        length => (usize::from(length), rest, 2),
    };
    let mut mask = None;
    if second & MASKED != 0 {
        let (bytes, _) = rest.split_first_chunk::<4>()?;
        mask = Some(*bytes);
        length += 4;
    }
    Some(Header {
        opcode: first & 0x0f,
        bytes: length,
        payload,
        mask,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        let mut sent = Vec::new();
        masked_frame(&mut sent, 7, 41);
        assert_eq!(sent.len(), 8 + PAYLOAD_BYTES);
        let head = header(&sent).unwrap();
        assert_eq!((head.opcode, head.payload), (BINARY, PAYLOAD_BYTES));
        assert_eq!(head.bytes, 8);
        let mut payload = sent[head.bytes..].to_vec();
        apply_mask(&mut payload, head.mask.unwrap());
        assert_eq!(check(&payload, 7, 41), Echo::Right);
        assert_eq!(check(&payload, 7, 40), Echo::Later(41));
        assert_eq!(check(&payload, 7, 42), Echo::Earlier);
        assert_eq!(check(&payload, 8, 41), Echo::Wrong);
        for at in [0, 4, 8, 320, PAYLOAD_BYTES - 1] {
            let mut damaged = payload.clone();
            damaged[at] ^= 1;
            assert_eq!(check(&damaged, 7, 41), Echo::Wrong, "{at}");
        }
        assert_eq!(check(&payload[1..], 7, 41), Echo::Wrong);
    }

    #[test]
    fn headers_are_read_once_they_are_whole() {
        for payload in [0, 2, 125, 126, 640, 70_000] {
            let mut bytes = Vec::new();
            frame(&mut bytes, BINARY, &vec![1; payload]);
            let head = header(&bytes).unwrap();
            assert_eq!((head.payload, head.mask), (payload, None));
            assert_eq!(head.bytes + payload, bytes.len());
            assert!((0..head.bytes).all(|cut| header(&bytes[..cut]).is_none()));
        }
        let close = header(&MASKED_CLOSE).unwrap();
        assert_eq!((close.opcode, close.bytes, close.payload), (CLOSE, 6, 2));
    }

    #[test]
    fn a_mask_of_any_length_undoes_itself() {
        for length in [0, 1, 7, 8, 9, 640] {
            let before: Vec<u8> = (0..length)
                .map(|i| u8::try_from(i % 251).unwrap())
                .collect();
            let mut bytes = before.clone();
            apply_mask(&mut bytes, [1, 2, 3, 4]);
            assert!(length == 0 || bytes != before);
            apply_mask(&mut bytes, [1, 2, 3, 4]);
            assert_eq!(bytes, before);
        }
    }
}
