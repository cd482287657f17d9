//! Random tokens: made once, kept in files that only the owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use segue_core::names::hex;
use sha2::{Digest as _, Sha256};

/// Random bytes in a token: nobody guesses 256 bits.
const TOKEN_BYTES: usize = 32;

/// A random text of `bytes` random bytes, in hexadecimal, from the operating system.
///
/// # Errors
///
/// When `/dev/urandom` cannot be read.
pub fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(hex(&random))
}

/// Random bytes, from the operating system.
///
/// # Errors
///
/// When `/dev/urandom` cannot be read.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut random = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random)
}

/// Reads the token at `path`, or makes one there that only its owner may read.
///
/// A crash before the rename leaves no token and the next start makes one; a crash after it leaves
/// the token whole.
///
/// # Errors
///
/// When the file can be neither read nor written, or holds no token.
pub fn token(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= TOKEN_BYTES => return Ok(text.trim().to_owned()),
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} holds no token; remove it to get a new one",
                    path.display()
                ),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let token = random_hex(TOKEN_BYTES)?;
    write_private(path, format!("{token}\n").as_bytes())?;
    Ok(token)
}

/// Replaces a file in one step; only its owner may read it. A crash leaves the old or the new one.
///
/// # Errors
///
/// When the directory cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// SHA-256 of a token in hexadecimal: what others may know of it.
pub fn digest(token: &str) -> String {
    hex(&Sha256::digest(token))
}

/// Compares two tokens in a time that does not tell where they differ.
pub fn same(left: &str, right: &str) -> bool {
    let (left, right) = (Sha256::digest(left), Sha256::digest(right));
    let differ = left
        .iter()
        .zip(right.iter())
        .fold(0, |bits, (a, b)| bits | (a ^ b));
    differ == 0
}
