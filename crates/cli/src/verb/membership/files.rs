//! Files of membership, the time and chance: what the library leaves to its caller.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use segue_core::time::Timestamp;
use segue_membership::file::{self, Sight};
use segue_membership::keyset;
use segue_membership::{KeySet, PublicKey, Reject, SigningKey};

use crate::exit::{Exit, Trouble};

/// Longest file that is read, in bytes: a chain of a thousand key sets.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) fn now() -> Timestamp {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}

/// Random bytes, from the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Trouble> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| {
        let message = format!("/dev/urandom cannot be read: {error}");
        Trouble::new(
            Exit::Failed,
            message,
            "keys need randomness of the operating system",
        )
    })?;
    Ok(bytes)
}

/// A file, or standard input for `-`.
pub(super) fn read(path: &Path, hint: &str) -> Result<String, Trouble> {
    read_if(path, hint)?.ok_or_else(|| missing(path, hint))
}

/// A file, if there is one.
pub(super) fn read_if(path: &Path, hint: &str) -> Result<Option<String>, Trouble> {
    let bad = |error: io::Error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Trouble::new(Exit::Usage, message, hint)
    };
    let source: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        match File::open(path) {
            Ok(file) => Box::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error)),
        }
    };
    let mut text = String::new();
    source
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(bad)?;
    Ok(Some(text))
}

fn missing(path: &Path, hint: &str) -> Trouble {
    Trouble::new(Exit::Usage, format!("there is no {}", path.display()), hint)
}

/// A key that signs.
pub(super) fn private(path: &Path) -> Result<SigningKey, Trouble> {
    let hint = "`segue membership keygen NAME.pem` makes one";
    let text = read(path, hint)?;
    SigningKey::from_pem(&text)
        .map_err(|error| Trouble::new(Exit::Usage, format!("{}: {error}", path.display()), hint))
}

/// A public key.
pub(super) fn public(path: &Path) -> Result<PublicKey, Trouble> {
    let hint = "`segue membership keygen NAME.pem` writes it to NAME.jwk";
    let text = read(path, hint)?;
    serde_json::from_str(&text)
        .map_err(|error| Trouble::new(Exit::Usage, format!("{}: {error}", path.display()), hint))
}

/// The key set in force.
pub(super) fn key_set(path: &Path, now: Timestamp) -> Result<KeySet, Trouble> {
    let hint = "`segue membership rotate --env NAME` makes the first key set";
    let chain = read(path, hint)?;
    keyset::newest(&chain, now).map_err(|reject| refused(path, &reject))
}

/// Replaces a file in one step.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    file::replace(path, text.as_bytes(), Sight::Public).map_err(|error| unwritten(path, &error))
}

pub(super) fn unwritten(path: &Path, error: &io::Error) -> Trouble {
    let message = format!("{} cannot be written: {error}", path.display());
    let hint = match error.kind() {
        io::ErrorKind::AlreadyExists => "name another file: a key is never written over",
        _ => "is there a folder, and may you write there?",
    };
    Trouble::new(Exit::Usage, message, hint)
}

/// Something of ours that does not hold.
pub(super) fn refused(path: &Path, reject: &Reject) -> Trouble {
    let message = format!("{}: {reject} ({})", path.display(), reject.word());
    Trouble::new(Exit::Failed, message, hint(reject))
}

/// What to do about it.
pub(super) fn hint(reject: &Reject) -> &'static str {
    match reject.word() {
        "unknown-key" => {
            "does the newest key set have that key for this? see `segue membership show`"
        }
        "signature" | "malformed" | "duplicate" => {
            "it was changed on the way, or is something else: get it again"
        }
        "algorithm" | "type" => {
            "it was made by something else, or for something else: do not trust it"
        }
        "expired" | "frozen" => "sign a new one: `segue membership sign --renew`",
        "from-future" | "not-yet-valid" => "compare the clocks of both machines",
        "environment" | "issuer" => "it is signed for another place",
        "rollback" | "fork" => {
            "it is older than one that was seen before, or follows another history"
        }
        "equivocation" => {
            "somebody else signs with the same key: find out who before anything else"
        }
        "threshold" => "have the other root keys sign it: `segue membership rotate --cosign`",
        "key-set-gap" => "keep every key set in the file, oldest first",
        "not-admitted" => "sign a manifest with that release: `segue membership sign`",
        "revoked" => "make a new token, for a release that is admitted",
        _ => "see docs/guide/membership.md",
    }
}
