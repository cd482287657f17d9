//! Ed25519 keys, and how they are written: PKCS#8 in PEM for those that sign, JWK for the others.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Bytes of a seed, and of a public key.
pub const KEY_BYTES: usize = 32;

/// Bytes of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// What precedes the seed in PKCS#8: version 0, the algorithm 1.3.101.112, and two octet strings
/// (RFC 8410, section 7). OpenSSL writes exactly this.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Name of a key: its JWK thumbprint (RFC 7638). It is made of the key, so two keys never share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// As text, 43 letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for KeyId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why something is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKey {
    /// It is not the PEM of a private key.
    #[error("it is no PKCS#8 private key in PEM (BEGIN PRIVATE KEY)")]
    Pem,
    /// It is a private key of something else.
    #[error("it is a private key, and not one for Ed25519")]
    Algorithm,
    /// A JWK of another kind.
    #[error("it is no JWK of an Ed25519 public key (kty OKP, crv Ed25519, x of 32 bytes)")]
    Jwk,
    /// A JWK that calls itself by another key's name.
    #[error("the JWK calls itself {0:?}, which is not its thumbprint (RFC 7638)")]
    Name(String),
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub struct PublicKey([u8; KEY_BYTES]);

/// A public key as JWK sets have it (RFC 8037).
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

impl PublicKey {
    /// A key of its bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its name.
    pub fn kid(&self) -> KeyId {
        let x = URL_SAFE_NO_PAD.encode(self.0);
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        KeyId(URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes())))
    }

    /// Whether it signed that.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kid())
    }
}

impl From<PublicKey> for Jwk {
    fn from(key: PublicKey) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.0),
            kid: Some(key.kid().0),
        }
    }
}

impl TryFrom<Jwk> for PublicKey {
    type Error = BadKey;

    fn try_from(jwk: Jwk) -> Result<Self, BadKey> {
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err(BadKey::Jwk);
        }
        let x = URL_SAFE_NO_PAD.decode(&jwk.x).map_err(|_| BadKey::Jwk)?;
        let key = Self(x.try_into().map_err(|_| BadKey::Jwk)?);
        match jwk.kid {
            Some(kid) if kid != key.kid().0 => {
                Err(BadKey::Name(kid.chars().take(KEY_BYTES * 2).collect()))
            }
            _ => Ok(key),
        }
    }
}

/// A key that signs. It is shown to nobody: `Debug` says its public name.
pub struct SigningKey {
    seed: [u8; KEY_BYTES],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// The key of 32 random bytes.
    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        let pair = pair.expect("32 bytes are a seed");
        Self { seed, pair }
    }

    /// Reads PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` and [`SigningKey::to_pem`]
    /// write it.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn from_pem(text: &str) -> Result<Self, BadKey> {
        let after = text.split_once(PEM_BEGIN).ok_or(BadKey::Pem)?.1;
        let body = after.split_once(PEM_END).ok_or(BadKey::Pem)?.0;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| BadKey::Pem)?;
        // The other form (RFC 5958) brings the public key along, which is not needed.
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| BadKey::Algorithm)?;
        let at = (der.windows(4)).position(|is| is == [0x04, 0x22, 0x04, 0x20]);
        let at = at.ok_or(BadKey::Algorithm)? + 4;
        let seed = der.get(at..at + KEY_BYTES).ok_or(BadKey::Algorithm)?;
        let key = Self::from_seed(seed.try_into().expect("32 bytes were taken"));
        if key.pair.public_key().as_ref() != pair.public_key().as_ref() {
            return Err(BadKey::Algorithm);
        }
        Ok(key)
    }

    /// PKCS#8 in PEM: a secret.
    pub fn to_pem(&self) -> String {
        let der = [&PKCS8_HEAD[..], &self.seed].concat();
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der))
    }

    /// What others may know.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("a public key is 32 bytes"))
    }

    /// Its name.
    pub fn kid(&self) -> KeyId {
        self.public().kid()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(message);
        let bytes = signature.as_ref().try_into();
        bytes.expect("a signature is 64 bytes")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A: the seed, the public key and the thumbprint.
    #[test]
    fn keys_are_those_of_the_rfc() {
        let seed = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        let seed = URL_SAFE_NO_PAD.decode(seed).unwrap();
        let key = SigningKey::from_seed(seed.try_into().unwrap());
        let jwk = serde_json::to_value(key.public()).unwrap();
        assert_eq!(jwk["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(
            key.kid().as_str(),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
        let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let made = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
        assert_eq!(made, signature);
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = SigningKey::from_seed([7; 32]);
        let again = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        let said = format!("{key:?}");
        assert!(!said.contains(&key.to_pem()[30..60]), "{said}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let pem = |der: &[u8]| format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der));
        let short = [&PKCS8_HEAD[..], &[1; 31]].concat();
        for (text, expected) in [
            (String::new(), BadKey::Pem),
            ("-----BEGIN PRIVATE KEY-----".to_owned(), BadKey::Pem),
            (pem(&[]), BadKey::Algorithm),
            (pem(&short), BadKey::Algorithm),
            (pem(&[0x30; 48]), BadKey::Algorithm),
            (format!("{PEM_BEGIN}\n!!\n{PEM_END}"), BadKey::Pem),
        ] {
            assert_eq!(SigningKey::from_pem(&text).unwrap_err(), expected, "{text}");
        }
        let key = SigningKey::from_seed([7; 32]).public();
        let mut jwk = serde_json::to_value(key).unwrap();
        assert_eq!(
            serde_json::from_value::<PublicKey>(jwk.clone()).unwrap(),
            key
        );
        jwk["kid"] = "root".into();
        let wrong = serde_json::from_value::<PublicKey>(jwk.clone()).unwrap_err();
        assert!(wrong.to_string().contains("thumbprint"), "{wrong}");
        jwk["kid"] = serde_json::Value::Null;
        jwk["crv"] = "X25519".into();
        assert!(serde_json::from_value::<PublicKey>(jwk).is_err());
    }
}
