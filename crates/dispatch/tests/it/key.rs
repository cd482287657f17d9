//! LiveKit's access tokens: HS256, signed with the secret of an API key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// The API key of all tests.
pub(crate) const KEY: &str = "devkey";

/// Its secret: 32 bytes at least, or workers in Python warn.
pub(crate) const SECRET: &str = "a-secret-of-the-tests-of-thirty-two-bytes-or-more";

/// Signs claims.
pub(crate) fn sign(claims: &Value) -> String {
    let head = json!({ "alg": "HS256", "typ": "JWT" });
    let (head, body) = (head.to_string(), claims.to_string());
    let signed = format!("{}.{}", BASE64.encode(head), BASE64.encode(body));
    let tag = BASE64.encode(mac(&signed).finalize().into_bytes());
    format!("{signed}.{tag}")
}

/// The claims of a token, if this key signed it.
pub(crate) fn verify(token: &str) -> Option<Value> {
    let (signed, tag) = token.rsplit_once('.')?;
    let tag = BASE64.decode(tag).ok()?;
    mac(signed).verify_slice(&tag).ok()?;
    let (_, body) = signed.split_once('.')?;
    let claims: Value = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
    (claims["iss"] == KEY).then_some(claims)
}

/// What a worker brings along when it connects.
pub(crate) fn of_worker() -> String {
    sign(&json!({ "iss": KEY, "sub": "", "video": { "agent": true } }))
}

fn mac(signed: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())
        .expect("a key of any length")
        .chain_update(signed.as_bytes())
}
