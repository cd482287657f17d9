//! A secret that signs what we say, read from its file each time it is used: it may be replaced at
//! any time.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest secret, in bytes: more than any key, and little when the wrong file is named.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Never shown.
pub(super) struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// Reads one, without the white space around it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let told = |what: &str| format!("{}: {what}", path.display());
        let file = File::open(path).map_err(|error| told(&error.to_string()))?;
        let mut bytes = Vec::new();
        let mut limited = file.take(SECRET_BYTES_MAX + 1);
        let read = limited.read_to_end(&mut bytes);
        read.map_err(|error| told(&error.to_string()))?;
        let secret = bytes.trim_ascii();
        if secret.is_empty() {
            return Err(told("it is empty"));
        }
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(told("it is too long for a secret"));
        }
        Ok(Self(secret.to_owned()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_end_and_never_shown() {
        let path = std::env::temp_dir().join(format!("segue-secret-{}", std::process::id()));
        std::fs::write(&path, " hush \n").unwrap();
        let secret = Secret::read(&path).unwrap();
        assert_eq!(secret.bytes(), b"hush");
        assert_eq!(format!("{secret:?}"), "***");
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::read(&path).unwrap_err().contains("empty"));
        std::fs::write(&path, vec![b'x'; 5_000]).unwrap();
        assert!(Secret::read(&path).unwrap_err().contains("too long"));
        std::fs::remove_file(&path).unwrap();
        assert!(Secret::read(&path).is_err());
    }
}
