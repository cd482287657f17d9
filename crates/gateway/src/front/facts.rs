//! Whose request it is, and what is known of its call.

use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::names::{CallId, hex};
use segue_core::route::CallFacts;
use segue_core::table::RoutingTable;
use sha2::{Digest as _, Sha256};

use crate::http::Answer;
use crate::http::request::Request;
use crate::http::values::{self, Found};
use crate::ledger::{Asking, Identity, Ledger, Purpose};

use super::trace;

const OVERRIDE: &str = "x-segue-override";
const OVERRIDE_TOKEN: &str = "x-segue-override-token";

/// Says that the release winds down, to the worker and to the caller's agent: a good moment to
/// reconnect, or to come to an end.
const RETIRING: &str = "X-Segue-Retiring";

/// The cookie that brings a browser's call id back.
const COOKIE: &str = "segue_call";

/// What was read from a request.
#[derive(Debug)]
pub(super) struct Facts {
    call: CallId,
    /// Whether we made the call id up.
    pub(super) minted: bool,
    /// Whether the caller keeps its id in our cookie.
    cookie: bool,
    cohort: Option<String>,
    caller: Option<String>,
    tenant: Option<String>,
    headers: Vec<(String, String)>,
    version_override: Option<String>,
    traceparent: Option<String>,
}

/// The table of the agent whose request this is: its hosts name ours, and among those its path is
/// the longest that fits.
pub(super) fn find_table(ledger: &Ledger, request: &Request) -> Result<Arc<RoutingTable>, Answer> {
    let tables = ledger.tables();
    let fits = |table: &&Arc<RoutingTable>| {
        let hosts = &table.ingress.hosts;
        let prefix = table.ingress.path.trim_end_matches('/');
        let rest = request.path().strip_prefix(prefix);
        (hosts.is_empty() || hosts.contains(&request.host))
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let best = tables.iter().filter(fits).max_by_key(|table| {
        let ingress = &table.ingress;
        (
            !ingress.hosts.is_empty(),
            ingress.path.trim_end_matches('/').len(),
        )
    });
    best.cloned().ok_or_else(|| {
        let hint = if tables.is_empty() {
            "this gateway has no routing table yet"
        } else {
            "hint: `segue status` lists the agents with their hosts and paths"
        };
        Answer::new(404, format!("no agent takes this host and path; {hint}"))
    })
}

impl Facts {
    /// Reads them by the agent's table. `form`: the body, if it is a form.
    pub(super) fn read(
        table: &RoutingTable,
        request: &Request,
        form: Option<&[u8]>,
    ) -> Result<Self, Answer> {
        let ingress = &table.ingress;
        let find = |sources| values::find(sources, request, form, &ingress.path);
        let value = |sources| find(sources).map(|found: Found| found.value);
        let (call, minted, cookie) = match find(&ingress.call_id) {
            Some(found) => {
                let call = found.value.parse::<CallId>();
                let call = call.map_err(|bad| Answer::bad(bad.to_string()))?;
                (call, false, found.from_cookie)
            }
            None => (mint(), true, true),
        };
        let text = |header: &crate::http::head::Header| {
            let name = header.name.to_ascii_lowercase();
            Some((name, header.text()?.to_owned()))
        };
        Ok(Self {
            call,
            minted,
            cookie,
            cohort: value(&ingress.cohort),
            caller: value(&ingress.caller),
            tenant: value(&ingress.tenant),
            headers: match &ingress.rules[..] {
                // Nobody asks for them.
                [] => Vec::new(),
                _ => request.headers.0.iter().filter_map(text).collect(),
            },
            version_override: permitted_override(table, request)?,
            traceparent: trace::context(&request.headers),
        })
    }

    pub(super) fn asking<'a>(&'a self, table: &'a RoutingTable, purpose: Purpose) -> Asking<'a> {
        Asking {
            agent: &table.agent,
            facts: CallFacts {
                call: &self.call,
                cohort: self.cohort.as_deref(),
                caller: self.caller.as_deref(),
                tenant: self.tenant.as_deref(),
                headers: &self.headers,
                // The ledger knows.
                pin: None,
                connected: false,
                version_override: self.version_override.as_deref(),
            },
            purpose,
            traceparent: self.traceparent.as_deref(),
        }
    }

    /// The cookie for the 101, if this caller is to have one.
    pub(super) fn cookie(&self, table: &RoutingTable, scheme: &str) -> Option<String> {
        let secure = if scheme == "https" { "; Secure" } else { "" };
        let age = table.stickiness.0.div_ceil(1_000);
        self.cookie.then(|| {
            let call = &self.call;
            format!("{COOKIE}={call}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}")
        })
    }
}

/// Time-ordered, so that call logs sort; random enough that nobody guesses a live one.
fn mint() -> CallId {
    let id = uuid::Uuid::now_v7().to_string();
    id.parse().expect("a UUID is a call id")
}

fn permitted_override(table: &RoutingTable, request: &Request) -> Result<Option<String>, Answer> {
    let Some(name) = request.headers.only(OVERRIDE)? else {
        return Ok(None);
    };
    let token = request.headers.only(OVERRIDE_TOKEN)?.unwrap_or_default();
    let digest = hex(&Sha256::digest(token));
    let expected = table.override_digest.as_deref().unwrap_or_default();
    // Every byte is looked at, so that the time taken tells nothing.
    let differ = digest.bytes().zip(expected.bytes());
    let differ = differ.fold(0, |differ, (a, b)| differ | (a ^ b));
    if differ != 0 || digest.len() != expected.len() {
        return Err(Answer::new(403, "the version override is not permitted"));
    }
    Ok(Some(name.to_owned()))
}

/// What we tell the worker.
pub(super) fn headers_for_worker(
    identity: &Identity,
    request: &Request,
    peer: SocketAddr,
    scheme: &str,
) -> Vec<(&'static str, String)> {
    let host = request.headers.text("host").unwrap_or_default();
    let mut headers = vec![
        ("X-Segue-Call-Id", identity.call.to_string()),
        ("X-Segue-Release", identity.label.to_string()),
        ("X-Forwarded-For", peer.ip().to_canonical().to_string()),
        ("X-Forwarded-Proto", scheme.to_owned()),
        ("X-Forwarded-Host", host.to_owned()),
    ];
    if identity.is_resume {
        headers.push(("X-Segue-Resume", "true".to_owned()));
    }
    if identity.retiring {
        headers.push((RETIRING, "true".to_owned()));
    }
    headers
}

/// What we tell the caller on top of the worker's answer.
pub(super) fn headers_for_caller(identity: &Identity) -> Vec<(&'static str, String)> {
    let retiring = identity.retiring.then(|| (RETIRING, "true".to_owned()));
    retiring.into_iter().collect()
}
