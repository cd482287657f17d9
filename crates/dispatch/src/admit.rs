//! Whose a worker is, and whether it may take jobs.

use std::collections::BTreeMap;
use std::fmt;

use segue_core::dispatch::LINES_MAX;
use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::time::Timestamp;
use segue_membership::{Member, Reject};

/// Longest piece of what a worker says that is repeated, in bytes: enough to recognise it.
const SAID_BYTES_MAX: usize = 128;

/// Longest permissions of a worker, in bytes: with every field they have some dozens.
pub(crate) const PERMISSIONS_BYTES_MAX: usize = 1_024;

/// What a worker shows and says when it comes.
#[derive(Debug, Clone, Copy)]
pub struct Knock<'a> {
    /// The membership token of its path.
    pub token: Option<&'a str>,
    /// The deployment it registers for (`LIVEKIT_AGENT_DEPLOYMENT`); empty if it says none.
    pub deployment: &'a str,
    /// The name it registers under.
    pub agent_name: &'a str,
    /// The namespace it registers in; usually empty.
    pub namespace: &'a str,
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
    #[error("no agent takes jobs as {0}\nhint: set `name` below [agents.NAME.livekit]")]
    NoAgent(Registered),
    /// Its token is of an agent that takes jobs under another name: it would be given jobs of others.
    #[error(
        "the worker registers as {said}, its token is of {agent}, which takes jobs as {expected}\nhint: let it register as its agent's `name` and `namespace` below [agents.{agent}.livekit] say"
    )]
    OtherAgent {
        /// Whose its token is.
        agent: AgentName,
        /// As what it registers.
        said: Registered,
        /// As what it should.
        expected: Registered,
    },
    /// It asks for more than anybody has reason to.
    #[error("the worker's permissions have {0} bytes, at most {PERMISSIONS_BYTES_MAX} are taken")]
    Permissions(usize),
    /// Each combination of permissions and kind of job is a registration of its own at the server.
    #[error(
        "workers of {0} ask for more than {LINES_MAX} different kinds of job and permissions\nhint: let them register alike"
    )]
    Lines(AgentName),
}

/// As what a worker registers at the server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registered {
    name: String,
    namespace: String,
}

impl Registered {
    /// By this name, and in this namespace; either may be empty.
    pub fn new(name: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        }
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", brief(&self.name))?;
        match &*self.namespace {
            "" => Ok(()),
            namespace => write!(f, " in namespace {:?}", brief(namespace)),
        }
    }
}

/// What a stranger says, as far as it is repeated.
pub(crate) fn brief(text: &str) -> &str {
    &text[..text.floor_char_boundary(SAID_BYTES_MAX)]
}

impl Refused {
    /// One word for counters and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::Token(reject) => reject.word(),
            Self::Contradiction { .. } => "contradiction",
            Self::NoRelease => "no-release",
            Self::NoAgent(_) => "no-agent",
            Self::OtherAgent { .. } => "other-agent",
            Self::Permissions(_) => "permissions",
            Self::Lines(_) => "lines",
        }
    }
}

/// A document that is not believed; the one before stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBelieved {
    /// `keys` or `manifest`.
    pub document: &'static str,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub message: String,
}

/// Lets workers in.
pub trait Admit: Send + Sync {
    /// Decides about one that comes.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    fn admit(&self, knock: Knock<'_>, now: Timestamp) -> Result<Admitted, Refused>;

    /// Looks for what is new, such as another manifest, and says what of it is refused. May wait for
    /// a disk.
    fn refresh(&self, _now: Timestamp) -> Vec<NotBelieved> {
        Vec::new()
    }

    /// Whether one that is in may still take jobs.
    fn takes_jobs(&self, pass: &Pass, now: Timestamp) -> bool;
}

/// Believes what workers say: for one machine, or a network where nobody else can connect.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// Agents by what their workers register as.
    pub agents: BTreeMap<Registered, AgentName>,
}

impl Admit for Unsigned {
    fn admit(&self, knock: Knock<'_>, _now: Timestamp) -> Result<Admitted, Refused> {
        let registered = Registered::new(knock.agent_name, knock.namespace);
        let agent = self.agents.get(&registered);
        let agent = agent.ok_or(Refused::NoAgent(registered))?;
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
