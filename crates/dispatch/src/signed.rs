//! Workers that say by signature which release they are of.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use segue_core::names::Environment;
use segue_core::time::Timestamp;
use segue_membership::file::FileStore;
use segue_membership::{Gate, Reject, Settings};

use crate::admit::{Admit, Admitted, Knock, NotBelieved, Pass, Refused, brief};

/// Believes what is signed, by files that are read again when they change.
pub struct Signed {
    gate: Mutex<Gate>,
    files: Mutex<Files>,
}

/// The files, as they were read last.
struct Files {
    keys: Document,
    manifest: Document,
    /// Refused, and not yet told.
    refused: Vec<NotBelieved>,
    /// Who was let in could not be written down, which was told.
    is_unsaved: bool,
}

/// One file.
struct Document {
    name: &'static str,
    path: PathBuf,
    text: String,
    state: Offered,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    Never,
    Accepted,
    /// For that reason. It is offered again: keys come later than what they sign, disks get room,
    /// clocks are set. It is told once.
    Refused(&'static str),
}

impl Signed {
    /// Opens the gate: `keys` and `manifest` are the files, and `kept` is where it remembers what it
    /// has seen.
    ///
    /// # Errors
    ///
    /// When the files cannot be read or are not believed. A manifest may come later.
    pub fn open(
        environment: Environment,
        keys: PathBuf,
        manifest: PathBuf,
        kept: &Path,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        let unread = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Unread { path, source }
        };
        let mut secret = [0; 32];
        let random = Path::new("/dev/urandom");
        File::open(random)
            .and_then(|mut file| file.read_exact(&mut secret))
            .map_err(unread(random))?;
        let chain = std::fs::read_to_string(&keys).map_err(unread(&keys))?;
        let settings = Settings::new(environment, secret);
        let store = Box::new(FileStore::new(kept));
        let gate = Gate::open(settings, &chain, store, now).map_err(OpenError::Refused)?;
        let files = Files {
            keys: Document {
                // A chain that does not follow is offered again, and then told.
                state: match gate.complaint() {
                    Some(_) => Offered::Never,
                    None => Offered::Accepted,
                },
                ..Document::new("keys", keys, chain)
            },
            manifest: Document::new("manifest", manifest, String::new()),
            refused: Vec::new(),
            is_unsaved: false,
        };
        let signed = Self {
            gate: Mutex::new(gate),
            files: Mutex::new(files),
        };
        signed.look(&mut signed.files(), now);
        Ok(signed)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        // It stores before it changes, so it is whole.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before the gate.
    fn files(&self) -> MutexGuard<'_, Files> {
        // What was read is at worst read again.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, files: &mut Files, now: Timestamp) {
        let before = self.gate().keys().set;
        let refused = files
            .keys
            .offer(false, |text| self.gate().offer_keys(text, now));
        files.refused.extend(refused);
        let has_keys = self.gate().keys().set != before;
        let refused = files.manifest.offer(has_keys, |text| {
            let accepted = self.gate().offer_manifest(text, now)?;
            Ok(accepted.ver)
        });
        files.refused.extend(refused);
        let saved = self.gate().save(now);
        if let Err(error) = &saved
            && !files.is_unsaved
        {
            tracing::error!(%error, "who was let in is not written down; it is tried again");
        }
        files.is_unsaved = saved.is_err();
    }
}

impl Document {
    fn new(name: &'static str, path: PathBuf, text: String) -> Self {
        Self {
            name,
            path,
            text,
            state: Offered::Never,
        }
    }

    /// Reads it and offers it, unless it was accepted as it is. Answers what is refused now, and was
    /// not before.
    fn offer(
        &mut self,
        anew: bool,
        offer: impl FnOnce(&str) -> Result<u64, Reject>,
    ) -> Option<NotBelieved> {
        let file = self.path.display();
        let (reason, message) = match std::fs::read_to_string(&self.path) {
            // It may be on its way. What was believed stays.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => ("unreadable", format!("it cannot be read: {error}")),
            Ok(text) => {
                let is_new = text != self.text;
                if !is_new && !anew && self.state == Offered::Accepted {
                    return None;
                }
                if is_new {
                    self.text = text;
                    self.state = Offered::Never;
                }
                match offer(&self.text) {
                    Ok(number) => {
                        self.state = Offered::Accepted;
                        tracing::info!(%file, number, "membership is as this says now");
                        return None;
                    }
                    Err(error) => (error.word(), error.to_string()),
                }
            }
        };
        let before = std::mem::replace(&mut self.state, Offered::Refused(reason));
        if before == Offered::Refused(reason) {
            return None;
        }
        tracing::error!(%file, reason, message, "membership stays as it was");
        Some(NotBelieved {
            document: self.name,
            reason,
            message,
        })
    }
}

/// Why a gate is not opened. The dispatcher does not start: it would let in whoever comes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file is not there or not readable.
    #[error("{path} cannot be read")]
    Unread {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents are not believed.
    #[error("the key sets are refused")]
    Refused(#[source] Reject),
}

impl Admit for Signed {
    fn admit(&self, knock: Knock<'_>, now: Timestamp) -> Result<Admitted, Refused> {
        let token = knock.token.ok_or(Refused::NoToken)?;
        let member = self.gate().admit(token, now)?;
        if !knock.deployment.is_empty() && knock.deployment != member.version.as_str() {
            return Err(Refused::Contradiction {
                said: brief(knock.deployment).to_owned(),
                token: member.version.to_string(),
            });
        }
        Ok(Admitted {
            agent: member.agent.clone(),
            label: member.version.clone(),
            release: Some(member.digest),
            draining: !member.state.takes_calls(),
            pass: Pass::Signed(Box::new(member)),
        })
    }

    /// What is not believed changes nothing.
    fn refresh(&self, now: Timestamp) -> Vec<NotBelieved> {
        let mut files = self.files();
        self.look(&mut files, now);
        std::mem::take(&mut files.refused)
    }

    fn takes_jobs(&self, pass: &Pass, now: Timestamp) -> bool {
        match pass {
            Pass::Unsigned => false,
            Pass::Signed(member) => self.gate().standing(member, now).takes_calls(),
        }
    }
}
