//! Whose a worker is, and whether it may take jobs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::time::Timestamp;
use segue_membership::{Gate, Member, Reject};

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

/// Believes what is signed.
pub struct Signed(Mutex<Gate>);

impl Signed {
    /// By this gate.
    pub fn new(gate: Gate) -> Self {
        Self(Mutex::new(gate))
    }

    /// The gate, for new manifests.
    pub fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        // It stores before it changes, so it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    fn takes_jobs(&self, pass: &Pass, now: Timestamp) -> bool {
        match pass {
            Pass::Unsigned => false,
            Pass::Signed(member) => self.gate().standing(member, now).takes_calls(),
        }
    }
}
