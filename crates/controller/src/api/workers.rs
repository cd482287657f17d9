//! The tokens that workers are given: one per agent, so that none reaches the calls of another's.
//!
//! They are all made from one key, so none has to be remembered: an agent that comes with the next
//! configuration has its token, and one that is in no configuration any more keeps it as long as
//! its workers run.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use segue_core::names::{AgentName, hex};
use sha2::Sha256;

use crate::secret;
use crate::state::StateDir;

/// What such a token begins with. Ids of other tokens are hexadecimal, so none is like it.
const PREFIX: &str = "segue_w_";
/// What the key is used for; nothing else that is made of it may be taken for a token.
const PURPOSE: &[u8] = b"segue worker token\0";

/// The tokens of workers.
#[derive(Debug, Clone)]
pub(crate) struct WorkerTokens {
    state: StateDir,
    key: String,
    /// Held while a file is written: workers of one agent start at the same time.
    writing: Arc<Mutex<()>>,
}

impl WorkerTokens {
    /// Reads the key, or makes one.
    ///
    /// # Errors
    ///
    /// When it can be neither read nor written.
    pub(crate) fn open(state: &StateDir) -> io::Result<Self> {
        Ok(Self {
            state: state.clone(),
            key: secret::token(&state.worker_key())?,
            writing: Arc::default(),
        })
    }

    /// The token of an agent's workers.
    fn token(&self, agent: &AgentName) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(self.key.as_bytes());
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(PURPOSE);
        mac.update(agent.as_str().as_bytes());
        let digest = hex(&mac.finalize().into_bytes());
        format!("{PREFIX}{digest}_{agent}")
    }

    /// Whose workers have this token; `None`: nobody's.
    pub(super) fn agent(&self, token: &str) -> Option<AgentName> {
        let (_, agent) = token.strip_prefix(PREFIX)?.split_once('_')?;
        let agent: AgentName = agent.parse().ok()?;
        secret::same(token, &self.token(&agent)).then_some(agent)
    }

    /// The file with an agent's token. It is written if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn file(&self, agent: &AgentName) -> io::Result<PathBuf> {
        let path = std::path::absolute(self.state.worker_token(agent))?;
        let token = self.token(agent) + "\n";
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&token) {
            secret::write_private(&path, token.as_bytes())?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_agents_alone() {
        let tokens = |key: &str| WorkerTokens {
            state: StateDir::new("/nowhere"),
            key: key.to_owned(),
            writing: Arc::default(),
        };
        let (ours, others) = (tokens("a"), tokens("b"));
        let (desk, other): (AgentName, AgentName) =
            ("desk_1".parse().unwrap(), "other".parse().unwrap());
        let token = ours.token(&desk);
        assert_eq!(ours.agent(&token), Some(desk.clone()));
        assert_eq!(others.agent(&token), None);
        assert_ne!(token, ours.token(&other));
        for wrong in [
            token.replace("desk_1", "other"),
            token.replace("desk_1", "desk"),
            token.replace("segue_w_", "segue_"),
            token.replace('_', ""),
            format!("{token}0"),
            String::new(),
        ] {
            assert_eq!(ours.agent(&wrong), None, "{wrong}");
        }
    }
}
