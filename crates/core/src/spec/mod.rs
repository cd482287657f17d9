//! What an operator writes down: `segue.toml`, as checked values.
//!
//! Domain types only; [`parse()`] makes them from text and reports every fault at once.

mod api;
mod bounds;
mod component;
mod fault;
mod gates;
mod gateway;
mod ingress;
mod keys;
mod livekit;
mod membership;
mod notify;
mod parse;
mod plan;
mod policy;
mod program;
mod reader;
mod reference;
mod schema;
mod values;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::compat::Requirement;
use crate::names::{AgentName, ComponentName, Label};
use crate::split::Share;
use crate::time::Millis;

pub use api::{API_LISTEN, API_RATE_LIMIT, GATEWAY_LISTEN};
pub use fault::Fault;
pub use gateway::{GatewayLimits, GatewaySpec};
pub use livekit::{LIVEKIT_LISTEN, LivekitAdmission, LivekitAgent, LivekitSpec};
pub use membership::{MembershipSpec, WorkersNeed};
pub use parse::parse;
pub use reference::reference;
pub use schema::{SCHEMA_ID, schema};

/// What `segue init` writes: an agent that runs at once, and every key with its default.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The whole configuration of one Segue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where calls come in.
    pub gateway: GatewaySpec,
    /// The admin API.
    pub api: ApiSpec,
    /// Where traces go.
    pub telemetry: TelemetrySpec,
    /// Who is told of decisions.
    pub notify: Vec<NotifySpec>,
    /// Who may take calls, by signature; `None`: every worker of a release.
    pub membership: Option<MembershipSpec>,
    /// How jobs of LiveKit workers are given out; `None`: none are.
    pub livekit: Option<LivekitSpec>,
    /// The agents.
    pub agents: BTreeMap<AgentName, AgentSpec>,
}

/// Settings of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSpec {
    /// Where it listens; beyond loopback only with TLS.
    pub listen: SocketAddr,
    /// Its identity; `None`: plain, on loopback only.
    pub tls: Option<TlsSpec>,
    /// Names by which it may be asked, beside its address and those of loopback.
    pub names: Vec<String>,
    /// Requests per second that one token may make; a rollback always gets through.
    pub rate_limit: u32,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TelemetrySpec {
    /// Base address of an OTLP/HTTP receiver, such as `http://127.0.0.1:4318`; `None`: nowhere.
    pub otlp: Option<String>,
}

/// Somebody who is told of decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifySpec {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Where to.
    pub to: Outbound,
    /// In which form.
    pub format: NotifyFormat,
    /// Names of the facts it is told of; empty: those that a person wants to know of.
    pub events: Vec<String>,
    /// The text, with `{agent}`, `{event}`, `{release}`, `{actor}` and `{reason}`; `None`: ours.
    pub template: Option<String>,
}

/// The form of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyFormat {
    /// The audit entry and the text, as JSON.
    #[default]
    Json,
    /// `{"text": …}`, which Slack and its kin take.
    Slack,
    /// `CDEvents` in `CloudEvents`, structured JSON.
    Cdevents,
}

/// An address that Segue calls by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// `http` or `https`.
    pub url: String,
    /// File with the secret that signs the body; `None`: it is not signed.
    pub secret_file: Option<String>,
    /// Addresses (`10.0.0.0/8`, `127.0.0.1`) that may be called although they are not public.
    pub allow: Vec<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentSpec {
    /// How its workers are started.
    pub worker: WorkerSpec,
    /// What its workers are given beside their program.
    pub parts: PartsSpec,
    /// Programs that every release of it runs beside its workers.
    pub components: BTreeMap<ComponentName, ComponentSpec>,
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
    /// Path to which a worker is told that its release retires, and which calls to wind up;
    /// `None`: it is not told.
    pub notify_path: Option<String>,
    /// Its version, for what others require of it; `None`: nobody may require one.
    pub version: Option<String>,
    /// Components that must be ready before a worker is started.
    pub depends_on: Vec<ComponentName>,
    /// What it requires of components.
    pub requires: Vec<Requirement>,
}

/// Files and names that make a release of their own when they change, with the same program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartsSpec {
    /// File with the prompt: `{prompt}`, `$SEGUE_PROMPT`.
    pub prompt: Option<String>,
    /// Name of the model, or a file: `{model}`, `$SEGUE_MODEL`.
    pub model: Option<String>,
    /// File with the worker's own configuration: `{config}`, `$SEGUE_CONFIG`.
    pub config: Option<String>,
}

/// A program that every release runs once, beside its workers: an engine, a licence proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ComponentSpec {
    /// Program and arguments, with `{port}`, `{release}`, `{agent}` and `{NAME.url}` of the
    /// components it depends on.
    pub command: Vec<String>,
    /// Environment, beside what it inherits.
    pub env: BTreeMap<String, String>,
    /// Working directory; `None`: that of the configuration file.
    pub directory: Option<String>,
    /// Path that answers 200 once it is ready; `None`: a TCP connect is enough.
    pub health_path: Option<String>,
    /// Its version, for what others require of it.
    pub version: Option<String>,
    /// Components that must be ready before it is started.
    pub depends_on: Vec<ComponentName>,
    /// What it requires of other components.
    pub requires: Vec<Requirement>,
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
    /// What becomes of calls that a draining release still holds after a while.
    #[serde(default)]
    pub stragglers: Stragglers,
    /// How a call goes on whose worker dies; `None`: it ends with its worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
}

/// How a call goes on whose worker dies: at another worker of its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// The caller's first messages, which that worker is told again.
    pub opening_messages: u32,
}

/// What becomes of calls that a draining release still holds after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stragglers {
    /// What happens at the ceiling.
    pub policy: StragglerPolicy,
    /// How long after its drain began; `None`: never.
    pub ceiling: Option<Millis>,
    /// Each call's turn comes at a moment of its own within this time.
    pub jitter: Millis,
    /// At most this many calls a second.
    pub per_second: u32,
}

/// What happens to a straggler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StragglerPolicy {
    /// Nothing: it ends by itself.
    #[default]
    Wait,
    /// Its worker is asked to wind up.
    Announce,
    /// Its worker is asked to hand it off, and when it comes back it goes by the split.
    HandOff,
    /// It is ended, and counted as ended by policy.
    End,
}

impl StragglerPolicy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Wait, Self::Announce, Self::HandOff, Self::End];

    /// One word for people, as it is written in `segue.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Announce => "announce",
            Self::HandOff => "hand-off",
            Self::End => "end",
        }
    }
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
    /// Others who must agree before it takes a call.
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
    /// Whether a person must agree, and when.
    #[serde(default)]
    pub approval: Option<Approval>,
    /// Programs that run before it and after the releases before it.
    #[serde(default)]
    pub hooks: Hooks,
    /// How long after the cutover drops, errors and smoke calls still roll it back.
    #[serde(default)]
    pub bake: Millis,
    /// Whether a release that was current before skips the ramp and the approval.
    #[serde(default)]
    pub fast_track: bool,
}

/// A gate that somebody else decides, asked by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its name; each is a gate of its own.
    pub name: String,
    /// Who is asked.
    pub to: Outbound,
    /// How long each try may take.
    pub timeout: Millis,
    /// How often it is asked again when no answer came.
    pub retries: u32,
}

/// A gate that a person decides, with the role approver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// What waits for it.
    pub before: Before,
}

/// What an approval is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// The first call by the split.
    Ramp,
    /// All new calls.
    Cutover,
}

/// Programs around the life of a release: expand and contract of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    /// Runs before its first worker is started; what it changes must suit older releases too.
    pub before_deploy: Option<Hook>,
    /// Runs once no process of an older release is left.
    pub after_retire: Option<Hook>,
}

/// A program that runs once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Program and arguments, with `{release}` and `{agent}`.
    pub command: Vec<String>,
    /// How long it may take; then it is ended and has failed.
    pub timeout: Millis,
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
            stragglers: Stragglers::default(),
            rescue: None,
        }
    }
}

impl Default for Rescue {
    fn default() -> Self {
        Self {
            opening_messages: 2,
        }
    }
}

impl Default for Stragglers {
    fn default() -> Self {
        Self {
            policy: StragglerPolicy::Wait,
            ceiling: None,
            jitter: Millis::from_secs(30),
            per_second: 5,
        }
    }
}

impl Default for ApiSpec {
    fn default() -> Self {
        Self {
            listen: API_LISTEN,
            tls: None,
            names: Vec::new(),
            rate_limit: API_RATE_LIMIT,
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
            webhooks: Vec::new(),
            approval: None,
            hooks: Hooks::default(),
            bake: Millis(0),
            fast_track: true,
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
            notify_path: None,
            version: None,
            depends_on: Vec::new(),
            requires: Vec::new(),
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
