//! LiveKit's own tokens, by which a server lets workers in: JWT with HS256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use segue_core::time::Timestamp;
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

use crate::config::ApiKey;

/// How long ours lasts, in seconds: it is made anew for each connection.
const LASTS_S: u64 = 600;

/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 60;

/// Longest token that is looked at: real ones have some 300 bytes.
const BYTES_MAX: usize = 8 * 1024;

/// Why a worker is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadToken {
    /// None came along.
    #[error("no LiveKit token came along")]
    Missing,
    /// It is none.
    #[error("the LiveKit token is not understood")]
    Malformed,
    /// Another key signed it, or nobody.
    #[error("the LiveKit token is not signed with our API key")]
    Signature,
    /// It has run out, or is not good yet.
    #[error("the LiveKit token has run out, or clocks differ")]
    Expired,
    /// It is for a participant.
    #[error("the LiveKit token is not a worker's")]
    NotAgent,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// What a token says, as far as it is looked at.
#[derive(Deserialize)]
pub(crate) struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    nbf: u64,
    /// The server takes tokens without an end too.
    exp: Option<u64>,
    #[serde(default)]
    video: Grants,
}

#[derive(Deserialize, Default)]
struct Grants {
    #[serde(default)]
    agent: bool,
}

fn mac(secret: &str) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.as_bytes()).expect("a key of any length")
}

/// A worker's token, as LiveKit's own library makes it.
pub(crate) fn sign(key: &ApiKey, now: Timestamp) -> String {
    let may = json!({
        "agent": true, "canPublish": true, "canSubscribe": true, "canPublishData": true,
    });
    sign_for(key, &may, now)
}

/// A token for whatever LiveKit's "video grants" say.
pub(crate) fn sign_for(key: &ApiKey, may: &serde_json::Value, now: Timestamp) -> String {
    let now = now.0 / 1_000;
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let claims = json!({
        "iss": key.name,
        "sub": "",
        "nbf": now,
        "exp": now + LASTS_S,
        "video": may,
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let tag = mac(&key.secret).chain_update(&signed).finalize();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.into_bytes()))
}

/// Whether a worker shows a worker's token of our key.
pub(crate) fn check(key: &ApiKey, token: Option<&str>, now: Timestamp) -> Result<(), BadToken> {
    if verify(key, token, now)?.video.agent {
        Ok(())
    } else {
        Err(BadToken::NotAgent)
    }
}

/// What a token of our key says.
pub(crate) fn verify(
    key: &ApiKey,
    token: Option<&str>,
    now: Timestamp,
) -> Result<Claims, BadToken> {
    let token = token.ok_or(BadToken::Missing)?;
    if token.len() > BYTES_MAX {
        return Err(BadToken::Malformed);
    }
    let (signed, tag) = token.rsplit_once('.').ok_or(BadToken::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(BadToken::Malformed)?;
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| BadToken::Malformed)
    };
    let header = decode(header)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| BadToken::Malformed)?;
    if header.alg != "HS256" {
        return Err(BadToken::Signature);
    }
    let mac = mac(&key.secret).chain_update(signed);
    mac.verify_slice(&decode(tag)?)
        .map_err(|_| BadToken::Signature)?;
    let claims: Claims =
        serde_json::from_slice(&decode(claims)?).map_err(|_| BadToken::Malformed)?;
    if claims.iss != key.name {
        return Err(BadToken::Signature);
    }
    let now = now.0 / 1_000;
    if claims.nbf > now + LEEWAY_S || claims.exp.is_some_and(|exp| exp + LEEWAY_S < now) {
        return Err(BadToken::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_believed_and_nothing_else() {
        let key = |secret: &str| ApiKey {
            name: "key".to_owned(),
            secret: secret.to_owned(),
        };
        let (ours, now) = (
            key("a secret of 32 bytes and a few more"),
            Timestamp(1_000_000),
        );
        let token = sign(&ours, now);
        assert_eq!(check(&ours, Some(&token), now), Ok(()));
        assert_eq!(check(&ours, None, now), Err(BadToken::Missing));
        assert_eq!(
            check(&key("x"), Some(&token), now),
            Err(BadToken::Signature)
        );
        let later = now + segue_core::time::Millis::from_secs(LASTS_S + LEEWAY_S + 1);
        assert_eq!(check(&ours, Some(&token), later), Err(BadToken::Expired));
        let cut = &token[..token.len() - 2];
        assert!(check(&ours, Some(cut), now).is_err());
        // {"alg":"none"}
        let none = format!("eyJhbGciOiJub25lIn0.{}", token.split_once('.').unwrap().1);
        assert_eq!(check(&ours, Some(&none), now), Err(BadToken::Signature));
        for bad in ["", "a", "a.b", "a.b.c", "...."] {
            assert!(check(&ours, Some(bad), now).is_err(), "{bad}");
        }
    }
}
