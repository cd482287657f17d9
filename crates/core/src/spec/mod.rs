//! What an operator writes down: `segue.toml`, as checked values.
//!
//! Domain types only; [`parse()`] makes them from text and reports every fault at once.

mod bounds;
mod fault;
mod ingress;
mod keys;
mod parse;
mod plan;
mod reader;
mod values;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, Label};
use crate::split::Share;
use crate::time::Millis;

pub use fault::Fault;
pub use parse::{API_LISTEN, GATEWAY_LISTEN, parse};

/// What `segue init` writes: an agent that runs at once, and every key with its default.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The whole configuration of one Segue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where calls come in.
    pub gateway: GatewaySpec,
    /// Where the admin API listens.
    pub api: SocketAddr,
    /// The agents.
    pub agents: BTreeMap<AgentName, AgentSpec>,
}

/// Settings of the gateway process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// Where calls come in.
    pub listen: SocketAddr,
    /// Certificate chain and key (PEM files); `None`: plain.
    pub tls: Option<TlsSpec>,
}

/// Files of a TLS identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// PEM file with the certificate chain, leaf first.
    pub cert: String,
    /// PEM file with the private key.
    pub key: String,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// How its workers are started.
    pub worker: WorkerSpec,
    /// How its calls are recognised and read.
    pub ingress: Ingress,
    /// How long things are kept.
    pub policy: Policy,
    /// How a new release is brought in.
    pub plan: Plan,
}

/// How the process platform starts a worker. A release freezes a copy of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// Program and arguments, with `{port}`, `{release}`, `{worker}` and `{agent}`. Empty: every
    /// deploy must bring its own (`segue deploy … -- COMMAND`).
    pub command: Vec<String>,
    /// Environment, beside what it inherits.
    pub env: BTreeMap<String, String>,
    /// Working directory; `None`: that of the configuration file.
    pub directory: Option<String>,
    /// How many workers a release runs.
    pub count: u32,
    /// How many calls one worker may hold.
    pub capacity: u32,
    /// Path that answers 200 once a worker is ready; `None`: a TCP connect is enough.
    pub health_path: Option<String>,
}

/// How requests are recognised as an agent's and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// `Host` values without port, lower case; empty means any.
    pub hosts: Vec<String>,
    /// Path prefix, starting with `/`; the longest match wins.
    pub path: String,
    /// Where the call id is, first match wins; else one is minted.
    pub call_id: Vec<Source>,
    /// Where the cohort key is: callers with the same key go to the same release. Else the call
    /// id is the key.
    pub cohort: Vec<Source>,
    /// Where the caller (a phone number, a user id) is, for targeting rules.
    pub caller: Vec<Source>,
    /// Where the tenant is, for targeting rules.
    pub tenant: Vec<Source>,
    /// Targeting rules, first match wins.
    pub rules: Vec<TargetRule>,
}

/// A place in a request where a value is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A header, by lower-case name.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A cookie.
    Cookie(String),
    /// A path template such as `/ws/{}`: the segment in the place of `{}`. What follows the
    /// template must be nothing, or a `/` or `?` and the rest.
    Path(String),
    /// A field of an `application/x-www-form-urlencoded` body, as carriers' webhooks send
    /// (`form:CallSid`).
    Form(String),
}

/// Sends matching new calls to a release, as long as that release takes new calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRule {
    /// Which calls.
    pub when: RuleWhen,
    /// Label or digest of the release.
    pub release: String,
}

/// Which calls a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleWhen {
    /// A header is present, and equals the value if one is given.
    Header {
        /// Lower-case name.
        name: String,
        /// Exact value; `None`: any.
        equals: Option<String>,
    },
    /// The caller is one of these.
    Caller(Vec<String>),
    /// The tenant is one of these.
    Tenant(Vec<String>),
    /// The cohort key, or without one the call id, is one of these.
    List(Vec<String>),
}

/// What becomes of a reconnecting call whose release was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRollback {
    /// It keeps its release while a worker of that release lives.
    #[default]
    Stay,
    /// It goes by the split, as a new call does.
    Move,
}

/// How long things are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long a pin outlives its call's last connection.
    pub stickiness: Millis,
    /// What becomes of reconnecting calls after a rollback.
    pub on_rollback: OnRollback,
    /// Time at zero calls before a release is believed empty; at least the stickiness window.
    pub straggler_buffer: Millis,
    /// How long a drained release is kept for rollback.
    pub standby: Millis,
    /// How many releases without a slot may drain or stand by at once.
    pub max_tails: u32,
}

/// How a new release is brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How long its workers may take to get ready.
    pub ready_timeout: Millis,
    /// The smoke gate; `None`: no smoke call is made, and the plan says so.
    pub smoke: Option<Smoke>,
    /// The ramp; empty: from verified straight to all new calls.
    pub steps: Vec<Step>,
    /// When a release is rolled back by itself.
    pub limits: Limits,
}

/// The smoke gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smoke {
    /// Name of the scenario.
    pub scenario: String,
    /// Request path of the smoke calls, with `{call_id}`.
    pub path: String,
    /// How many calls, one after the other; all must pass.
    pub calls: u32,
    /// How long all of them may take.
    pub timeout: Millis,
}

/// One step of the ramp. It ends when all of its conditions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Share of new calls for the incoming release.
    pub share: Share,
    /// Calls of the incoming release that must have ended in this step.
    pub min_calls: u64,
    /// Time it must last.
    pub min_duration: Millis,
    /// Whether to wait for an operator's `resume` or `promote` at its end.
    pub pause: bool,
}

/// When a release is rolled back by itself, judged on its calls since it began to ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Share of ended calls that may be dropped.
    pub drops: Share,
    /// Share of started calls that may fail to get through.
    pub errors: Share,
    /// Below this many calls the share is taken of this number, so that one bad call out of one
    /// does not decide.
    pub min_calls: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            stickiness: Millis::from_secs(300),
            on_rollback: OnRollback::Stay,
            straggler_buffer: Millis::from_secs(300),
            standby: Millis::from_secs(1_800),
            max_tails: 3,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drops: Share(200),
            errors: Share(500),
            min_calls: 20,
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ready_timeout: Millis::from_secs(60),
            smoke: None,
            steps: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Default for WorkerSpec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: BTreeMap::new(),
            directory: None,
            count: 1,
            capacity: 100,
            health_path: None,
        }
    }
}

impl Default for Ingress {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            path: "/".to_owned(),
            call_id: vec![
                Source::Header("x-call-id".to_owned()),
                Source::Query("call_id".to_owned()),
                Source::Path("/ws/{}".to_owned()),
                Source::Form("CallSid".to_owned()),
                Source::Cookie("segue_call".to_owned()),
            ],
            cohort: Vec::new(),
            caller: vec![
                Source::Header("x-caller".to_owned()),
                Source::Form("From".to_owned()),
            ],
            tenant: vec![Source::Header("x-tenant".to_owned())],
            rules: Vec::new(),
        }
    }
}

/// A label that is free to be used as one: it may not look like a digest prefix.
pub fn is_plain_label(label: &Label) -> bool {
    let text = label.as_str();
    text.len() < 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
