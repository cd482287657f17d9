//! What a gateway and a controller of one machine say to each other: JSON lines on a Unix socket.
//!
//! The controller listens, gateways connect and reconnect. A gateway without a controller goes on
//! by its last good table.

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, CallId, GatewayId, ReleaseId, WorkerId};
use crate::plane::{ConnectedWorker, PlaneEvent, Steer};
use crate::presence::Presence;
use crate::table::{Epoch, RoutingTable};
use crate::time::Timestamp;

/// Version of these messages. Both sides say theirs first; another one is refused, and a gateway
/// that is refused takes its calls by its last table.
///
/// It stays when a type of message or a field that may be missing is added: both sides leave out a
/// type that they do not know, with a warning, so that gateways and controller can be replaced one
/// after the other. It grows when a message that is there means something else.
pub const LINK_VERSION: u32 = 1;

/// Longest message, in bytes: a table of 1 000 workers is about 200 KiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// From the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGateway {
    /// Greets.
    Hello {
        /// See [`LINK_VERSION`].
        version: u32,
        /// Whether it says [`ToGateway::Read`], to a gateway that understands it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        acknowledges: bool,
    },
    /// It has read so many [`ToController::Ended`] and [`ToController::Events`] on this link, those
    /// counted of which it understood no more than the `type`: they are left out, with a warning. What
    /// was only written to the socket is lost with a controller that dies, so it is told again until
    /// it was read.
    ///
    /// Read is not kept: an event may wait for the journal, and is missing if the controller dies
    /// before that. And a link that breaks between reading and this message brings the batch twice:
    /// events are known again by the same controller, calls are counted twice.
    Read {
        /// How many.
        batches: u64,
    },
    /// The table of one agent. Idempotent; a table whose epoch is not larger than the installed
    /// one is ignored, and the presence that answers it shows the installed one.
    Table(Box<RoutingTable>),
    /// Every agent that exists; tables of others are dropped once they hold no call.
    Agents {
        /// Their names.
        names: Vec<AgentName>,
    },
    /// Asks for the live calls of an agent, oldest first.
    ListCalls {
        /// Comes back with the answer.
        request: u64,
        /// Whose calls; `None` means all.
        agent: Option<AgentName>,
        /// At most this many.
        limit: usize,
    },
    /// Ends these calls: a close frame with 1001 to both sides where a frame boundary allows it,
    /// then both sockets. Calls of another release than `release`, or not live, are left alone. All
    /// are, unless the installed table is `epoch` or a later one and says that the release still
    /// winds down: this may have waited while the release became current again.
    EndCalls {
        /// Whose calls.
        agent: AgentName,
        /// Of which release.
        release: ReleaseId,
        /// The table of the decision.
        #[serde(default)]
        epoch: Epoch,
        /// Which.
        calls: Vec<CallId>,
    },
    /// Asks for the connected workers. A gateway, which dials its workers itself, has none.
    ListWorkers {
        /// Comes back with the answer.
        request: u64,
        /// Whose workers; `None` means all.
        agent: Option<AgentName>,
        /// At most this many.
        limit: usize,
        /// Whether one job of each is enough, for whoever only counts them: all jobs of a fleet may be
        /// more than one message holds.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        brief: bool,
    },
    /// An operator does something with one worker; who does not know it answers so.
    SteerWorker {
        /// Comes back with the answer.
        request: u64,
        /// Whose.
        agent: AgentName,
        /// Which.
        worker: WorkerId,
        /// What.
        what: Steer,
    },
}

/// From a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToController {
    /// Greets.
    Hello {
        /// See [`LINK_VERSION`].
        version: u32,
        /// Who.
        gateway: GatewayId,
        /// Its process.
        pid: u32,
        /// Whether it understands [`ToGateway::Read`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        acknowledges: bool,
    },
    /// A report: at once when an epoch is installed, else every
    /// [`PRESENCE_EVERY`](crate::presence::PRESENCE_EVERY).
    Presence(Presence),
    /// Answers [`ToGateway::ListCalls`].
    Calls {
        /// Of the question.
        request: u64,
        /// Oldest first.
        calls: Vec<CallInfo>,
    },
    /// Calls that ended or were refused since the last such message, in no order; a record that
    /// finds the queue full is left out and counted. Told again if it may not have been read.
    Ended {
        /// What became of each.
        calls: Vec<CallRecord>,
        /// How many were left out since the gateway started.
        left_out: u64,
    },
    /// Answers [`ToGateway::ListWorkers`], and [`ToGateway::SteerWorker`] with the worker as it is
    /// now, or with none.
    Workers {
        /// Of the question.
        request: u64,
        /// By id.
        workers: Vec<ConnectedWorker>,
    },
    /// What belongs into the audit log. Told again if it may not have been read.
    Events {
        /// Oldest first.
        events: Vec<PlaneEvent>,
        /// How many were left out since it started.
        left_out: u64,
    },
    /// The last word of a gateway that holds no call and will take none under this name: nobody
    /// needs to wait for it. Only behind a [`ToController::Presence`] that shows as much.
    Goodbye,
}

/// What became of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The call.
    pub call: CallId,
    /// Its agent.
    pub agent: AgentName,
    /// Its release.
    pub release: ReleaseId,
    /// Its worker, if one was chosen.
    pub worker: Option<WorkerId>,
    /// When it was decided.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Milliseconds from the decision until the `101` went to the caller, if one did.
    pub setup_ms: Option<u64>,
    /// How it ended.
    pub outcome: CallOutcome,
    /// `SIDE:CODE`, a status, or words: why.
    pub cause: String,
    /// Why it went to its release: `split`, `rule`, `override` or `pin`.
    pub reason: String,
    /// Bytes from the caller.
    pub bytes_in: u64,
    /// Bytes to the caller.
    pub bytes_out: u64,
    /// Trace context of the caller (`traceparent`), if one came along.
    pub traceparent: Option<String>,
    /// Whether it outlived a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescued: Option<Rescued>,
}

/// How a call went on whose worker had died under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rescued {
    /// How often.
    pub times: u32,
    /// The longest time from the loss of a worker to the first byte from the next one, in
    /// milliseconds.
    pub gap_ms: u64,
}

/// How a call ended, as the gateway saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// By caller or worker, in order.
    Completed,
    /// Abnormally from the worker's side.
    Dropped,
    /// It never got through.
    Failed,
    /// By the straggler policy `end`, or by an operator.
    Policy,
    /// With a gateway that died.
    Lost,
}

/// One live or pinned call, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallInfo {
    /// The call.
    pub call: CallId,
    /// Its agent.
    pub agent: AgentName,
    /// Its release.
    pub release: ReleaseId,
    /// Its worker.
    pub worker: WorkerId,
    /// Under which table it was decided.
    pub epoch: Epoch,
    /// When it was pinned.
    pub since: Timestamp,
    /// `pinned`, `dialling`, `live`, `rescuing` (its worker died and another one is dialled), or
    /// `rescued`: live, at another worker than before.
    pub state: String,
    /// Why it went there: `split`, `rule`, `override` or `pin`.
    pub reason: String,
    /// Bytes from the caller.
    pub bytes_in: u64,
    /// Bytes to the caller.
    pub bytes_out: u64,
}
