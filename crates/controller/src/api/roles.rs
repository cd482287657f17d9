//! Who may use which endpoint: one table. What is not in it is refused.

use axum::http::Method;

use super::wire::Role;

/// What an endpoint asks of who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing, not even a token: it holds no secret.
    Nothing,
    /// The right to read.
    Read,
    /// The right to steer rollouts.
    Operate,
    /// The right to approve one.
    Approve,
    /// The right to give rights.
    Administer,
    /// The right to the state of calls, which is the callers' own.
    CallState,
    /// The right to dial out.
    Dial,
    /// The right to say how a worker is, and how its calls went.
    Report,
}

impl Needs {
    /// Whether a role has it.
    pub(crate) fn are_met_by(self, role: Role) -> bool {
        match self {
            Self::Nothing => true,
            Self::Read => role != Role::Worker,
            Self::Operate => matches!(role, Role::Operator | Role::Admin),
            Self::Approve => matches!(role, Role::Approver | Role::Admin),
            Self::Administer => role == Role::Admin,
            Self::CallState | Self::Report => matches!(role, Role::Worker | Role::Admin),
            Self::Dial => matches!(role, Role::Worker | Role::Operator | Role::Admin),
        }
    }
}

/// One endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    /// As in the API's description.
    pub(crate) path: &'static str,
    pub(crate) needs: Needs,
    /// Statuses of refusals beside those that every endpoint of its kind has.
    pub(crate) refuses: &'static [u16],
}

const fn on(
    method: &'static str,
    path: &'static str,
    needs: Needs,
    refuses: &'static [u16],
) -> Endpoint {
    Endpoint {
        method,
        path,
        needs,
        refuses,
    }
}

/// Refusals of what is decided about an agent.
const DECISION: &[u16] = &[404, 409, 412, 422, 503];

/// Refusals of what is done with one worker.
const STEERED: &[u16] = &[404, 409, 412, 503];

/// Every endpoint below `/v1`. Whoever adds one adds its row here, and to the matrix of the tests.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    on("GET", "/v1/openapi.json", Needs::Nothing, &[]),
    on("GET", "/v1/status", Needs::Read, &[503]),
    on("GET", "/v1/events", Needs::Read, &[503]),
    on("GET", "/v1/audit", Needs::Read, &[503]),
    on("GET", "/v1/audit/verify", Needs::Read, &[503]),
    on("GET", "/v1/agents/{agent}", Needs::Read, &[404, 503]),
    on("GET", "/v1/agents/{agent}/calls", Needs::Read, &[404, 503]),
    on(
        "GET",
        "/v1/agents/{agent}/releases/{release}",
        Needs::Read,
        &[404, 503],
    ),
    on(
        "POST",
        "/v1/agents/{agent}/deploy",
        Needs::Operate,
        DECISION,
    ),
    on("POST", "/v1/agents/{agent}/pause", Needs::Operate, DECISION),
    on(
        "POST",
        "/v1/agents/{agent}/resume",
        Needs::Operate,
        DECISION,
    ),
    on(
        "POST",
        "/v1/agents/{agent}/promote",
        Needs::Operate,
        DECISION,
    ),
    on("POST", "/v1/agents/{agent}/abort", Needs::Operate, DECISION),
    on("POST", ROLLBACK, Needs::Operate, DECISION),
    on("POST", "/v1/agents/{agent}/drain", Needs::Operate, DECISION),
    on(
        "POST",
        "/v1/agents/{agent}/retire",
        Needs::Operate,
        DECISION,
    ),
    on(
        "POST",
        "/v1/agents/{agent}/approve",
        Needs::Approve,
        DECISION,
    ),
    on(
        "POST",
        "/v1/agents/{agent}/contract",
        Needs::Operate,
        DECISION,
    ),
    on("GET", "/v1/agents/{agent}/diff", Needs::Read, &[404, 503]),
    on("POST", "/v1/reload", Needs::Operate, &[422, 503]),
    on(
        "POST",
        "/v1/gateways/{gateway}/forget",
        Needs::Operate,
        &[404, 422, 503],
    ),
    on("GET", "/metrics", Needs::Read, &[503]),
    on("GET", PERMITS, Needs::Read, &[404, 503]),
    on("POST", PERMITS, Needs::Dial, &[404, 422, 503]),
    on("PUT", PERMIT, Needs::Dial, &[404, 503]),
    on("DELETE", PERMIT, Needs::Dial, &[404, 503]),
    on(
        "GET",
        "/v1/agents/{agent}/workers",
        Needs::Read,
        &[404, 503],
    ),
    on("GET", WORKER, Needs::Read, &[404, 503]),
    on(
        "POST",
        "/v1/agents/{agent}/workers/{worker}/drain",
        Needs::Operate,
        STEERED,
    ),
    on(
        "POST",
        "/v1/agents/{agent}/workers/{worker}/undrain",
        Needs::Operate,
        STEERED,
    ),
    on(
        "POST",
        "/v1/agents/{agent}/workers/{worker}/kick",
        Needs::Operate,
        STEERED,
    ),
    on("PUT", WORKER, Needs::Report, &[404, 422, 503]),
    on(
        "POST",
        "/v1/agents/{agent}/workers/{worker}/membership",
        Needs::Report,
        &[404, 422, 503],
    ),
    on("GET", OUTCOME, Needs::Read, &[404, 503]),
    on("POST", OUTCOME, Needs::Report, &[404, 409, 422, 503]),
    on("GET", "/v1/tokens", Needs::Administer, &[]),
    on(
        "POST",
        "/v1/tokens",
        Needs::Administer,
        &[404, 409, 422, 503],
    ),
    on("GET", "/v1/tokens/events", Needs::Administer, &[503]),
    on("DELETE", "/v1/tokens/{id}", Needs::Administer, &[404, 503]),
    on("GET", CALL_STATE, Needs::CallState, &[404, 503]),
    on("PUT", CALL_STATE, Needs::CallState, &[404, 412, 503]),
    on("PATCH", CALL_STATE, Needs::CallState, &[404, 412, 503]),
    on("DELETE", CALL_STATE, Needs::CallState, &[404, 412, 503]),
];

/// The way back is never limited, and works while keys cannot be kept.
pub(crate) const ROLLBACK: &str = "/v1/agents/{agent}/rollback";
/// A stream: pages may not open it for others either.
pub(crate) const EVENTS: &str = "/v1/events";
/// How a call went.
const OUTCOME: &str = "/v1/agents/{agent}/calls/{call}/outcome";
/// One worker.
const WORKER: &str = "/v1/agents/{agent}/workers/{worker}";
/// Permits of outbound calls, and one of them.
const PERMITS: &str = "/v1/agents/{agent}/permits";
const PERMIT: &str = "/v1/agents/{agent}/permits/{permit}";
/// The state of a call.
pub(crate) const CALL_STATE: &str = "/v1/calls/{id}/state";

/// The row of an endpoint; `None`: there is none, and nobody may use it.
pub(crate) fn endpoint(method: &Method, path: &str) -> Option<&'static Endpoint> {
    let method = if *method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    ENDPOINTS
        .iter()
        .find(|endpoint| endpoint.method == method && endpoint.path == path)
}

/// The methods that an endpoint takes; none: there is no such endpoint.
pub(crate) fn methods(path: &str) -> Vec<&'static str> {
    let rows = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path);
    let with_head = rows.flat_map(|endpoint| {
        let head = (endpoint.method == "GET").then_some("HEAD");
        [Some(endpoint.method), head]
    });
    with_head.flatten().collect()
}

/// Whether a request of this method changes something.
pub(crate) fn writes(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}
