//! Whose a worker is, and whether it may take jobs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use segue_core::names::{AgentName, Environment, Label, ReleaseId};
use segue_core::time::Timestamp;
use segue_membership::file::FileStore;
use segue_membership::{Gate, Member, Reject, Settings};

/// What a worker shows and says when it comes.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'a> {
    /// The membership token of its path.
    pub token: Option<&'a str>,
    /// The deployment it registers for (`LIVEKIT_AGENT_DEPLOYMENT`); empty if it says none.
    pub deployment: &'a str,
    /// The name it registers under.
    pub agent_name: &'a str,
}

/// A worker that is let in.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Whose.
    pub agent: AgentName,
    /// The label of its release.
    pub label: Label,
    /// The identity of its release, if it is proven.
    pub release: Option<ReleaseId>,
    /// Whether it may only finish what it has.
    pub draining: bool,
    /// For asking again later.
    pub pass: Pass,
}

/// By what a worker is in.
#[derive(Debug, Clone)]
pub enum Pass {
    /// By its own word.
    Unsigned,
    /// By a token.
    Signed(Box<Member>),
}

/// Why a worker is turned away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Workers must show a token.
    #[error(
        "the worker shows no membership token\nhint: put it into LIVEKIT_URL, as ws://HOST:PORT/w/TOKEN"
    )]
    NoToken,
    /// Its token is not believed, or its release is not admitted.
    #[error(transparent)]
    Token(#[from] Reject),
    /// What it says contradicts its token.
    #[error(
        "the worker says it is of {said:?}, its token of {token:?}\nhint: leave LIVEKIT_AGENT_DEPLOYMENT away, or set it to the release's label"
    )]
    Contradiction {
        /// `LIVEKIT_AGENT_DEPLOYMENT`.
        said: String,
        /// The token's release.
        token: String,
    },
    /// It does not say which release it is of.
    #[error(
        "the worker names no release\nhint: set LIVEKIT_AGENT_DEPLOYMENT to the release's label"
    )]
    NoRelease,
    /// No agent is configured for the name it registers under.
    #[error("no agent takes jobs as {0:?}\nhint: set `name` below [agents.NAME.livekit]")]
    NoAgent(String),
}

impl Refused {
    /// One word for counters and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Token(reject) => reject.word(),
            Self::Contradiction { .. } => "contradiction",
            Self::NoRelease => "no_release",
            Self::NoAgent(_) => "no_agent",
        }
    }
}

/// Lets workers in.
pub trait Admit: Send + Sync {
    /// Decides about one that comes.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    fn admit(&self, knock: Knock<'_>, now: Timestamp) -> Result<Admitted, Refused>;

    /// Looks for what is new, such as another manifest. May wait for a disk.
    fn refresh(&self, _now: Timestamp) {}

    /// Whether one that is in may still take jobs.
    fn takes_jobs(&self, pass: &Pass, now: Timestamp) -> bool;
}

/// Believes what workers say: for one machine, or a network where nobody else can connect.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// Agents by the names under which their workers register.
    pub agents: BTreeMap<String, AgentName>,
}

impl Admit for Unsigned {
    fn admit(&self, knock: Knock<'_>, _now: Timestamp) -> Result<Admitted, Refused> {
        let agent = self.agents.get(knock.agent_name);
        let agent = agent.ok_or_else(|| Refused::NoAgent(knock.agent_name.to_owned()))?;
        // Workers that know no deployment say it in their path.
        let said = [Some(knock.deployment), knock.token];
        let said = said.into_iter().flatten().find(|label| !label.is_empty());
        let label = said.and_then(|label| label.parse().ok());
        Ok(Admitted {
            agent: agent.clone(),
            label: label.ok_or(Refused::NoRelease)?,
            release: None,
            draining: false,
            pass: Pass::Unsigned,
        })
    }

    fn takes_jobs(&self, _pass: &Pass, _now: Timestamp) -> bool {
        true
    }
}

/// Believes what is signed, by files that are read again when they change.
pub struct Signed {
    gate: Mutex<Gate>,
    keys: PathBuf,
    manifest: PathBuf,
    /// What was read last of each, good or bad: it is told once.
    read: Mutex<[String; 2]>,
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
        if let Some(error) = gate.complaint() {
            tracing::error!(file = %keys.display(), %error, "membership stays as it was");
        }
        let signed = Self {
            gate: Mutex::new(gate),
            keys,
            manifest,
            read: Mutex::new([chain, String::new()]),
        };
        signed.refresh(now);
        Ok(signed)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        // It stores before it changes, so it is whole.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
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
                said: knock.deployment.to_owned(),
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

    /// What is not believed changes nothing; it is told once.
    fn refresh(&self, now: Timestamp) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for (last, path) in read.iter_mut().zip([&self.keys, &self.manifest]) {
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            if text == *last {
                continue;
            }
            let offered = if *path == self.keys {
                self.gate().offer_keys(&text, now)
            } else {
                self.gate()
                    .offer_manifest(&text, now)
                    .map(|taken| taken.ver)
            };
            let file = path.display();
            match offered {
                Ok(number) => tracing::info!(%file, number, "membership is as this says now"),
                Err(error) => tracing::error!(%file, %error, "membership stays as it was"),
            }
            *last = text;
        }
        if let Err(error) = self.gate().save(now) {
            tracing::error!(%error, "who was let in is not written down");
        }
    }

    fn takes_jobs(&self, pass: &Pass, now: Timestamp) -> bool {
        match pass {
            Pass::Unsigned => false,
            Pass::Signed(member) => self.gate().standing(member, now).takes_calls(),
        }
    }
}
