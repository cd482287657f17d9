//! How a receiver knows that it was us: HMAC-SHA256 over the time and the body.

use hmac::{Hmac, KeyInit as _, Mac as _};
use segue_core::names::hex;
use sha2::{Digest as _, Sha256};

/// Bytes of a keyed hash that are kept: enough that no two calls of one day look alike.
const KEYED_HASH_BYTES: usize = 16;

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What `X-Segue-Signature` says: when it was signed, in seconds since 1970, and the signature of
/// `TIME.BODY`.
pub(super) fn header(secret: &[u8], seconds: u64, body: &[u8]) -> String {
    let time = seconds.to_string();
    let signature = mac(secret, &[time.as_bytes(), b".", body]);
    format!("t={time},v1={}", hex(&signature))
}

/// A name for something that must not be named, the same each time: nobody without the key can
/// tell whose it is, also not by trying.
pub(crate) fn keyed_hash(key: &[u8], text: &str) -> String {
    hex(&mac(key, &[text.as_bytes()])[..KEYED_HASH_BYTES])
}

/// An id for a delivery that is the same however often it is made from the same parts, in the form
/// of a UUID (version 8).
pub(crate) fn delivery_id(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    let mut bytes: [u8; 32] = digest.finalize().into();
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes[..16]);
    let places = [0..8, 8..12, 12..16, 16..20, 20..32];
    places.map(|place| &text[place]).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hmac_of_rfc_4231() {
        let signed = mac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&signed), expected);
        let long = mac(
            &[0xaa; 131],
            &[b"Test Using Larger Than Block-Size Key - Hash Key First"],
        );
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hex(&long), expected);
    }

    #[test]
    fn the_time_is_signed_too() {
        let signed = header(b"k", 1_700_000_000, b"{}");
        assert!(signed.starts_with("t=1700000000,v1="), "{signed}");
        assert_ne!(signed[13..], header(b"k", 1_700_000_001, b"{}")[13..]);
        assert_ne!(signed, header(b"j", 1_700_000_000, b"{}"));
    }

    #[test]
    fn a_delivery_keeps_its_id_and_looks_like_a_uuid() {
        let id = delivery_id(&["desk", "1"]);
        assert_eq!(id, delivery_id(&["desk", "1"]));
        assert_ne!(id, delivery_id(&["desk1", ""]));
        let dashes: Vec<usize> = id.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((id.len(), dashes), (36, vec![8, 13, 18, 23]), "{id}");
        assert_eq!(&id[14..15], "8");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }
}
