//! Who may ask. The API moves calls, so being on the same machine is not enough: a token is asked
//! for, what a web page could make a browser send is refused, and nobody may ask too often.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Api;
use super::bucket::Asker;
use super::handlers::no_such_path;
use super::problem::Reject;
use super::roles::{EVENTS, Needs, ROLLBACK, endpoint, methods, writes};
use super::tokens::{Principal, Unknown};
use super::wire::Role;
use crate::clock;

/// Both ends of the connection that a request came by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) ours: SocketAddr,
}

/// Names by which the API may be asked, beside its addresses and those of loopback.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether this is a name of ours that no DNS answer can turn towards us: an allowed one, one
    /// of loopback, or the very address of the connection.
    fn has(&self, host: &str, ours: IpAddr) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let literal = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(name).parse::<IpAddr>() {
            return address.is_loopback() || address.to_canonical() == ours.to_canonical();
        }
        let name = name.to_ascii_lowercase();
        literal.is_none() && (name == "localhost" || self.0.contains(&name))
    }
}

/// What is before the port, brackets included; `None`: it is no host.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.rfind(']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    let good = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (good && !name.is_empty()).then_some(name)
}

/// Requests of workers that are answered at once: half the places of a listener, so that with every
/// stream of events there are still some that can be closed for who comes.
pub(super) const WORKERS_AT_ONCE: usize = 128;
/// When a worker that was sent away comes back.
const WORKERS_AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn guard(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Reject> {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let ends = request.extensions().get::<Ends>().copied();
    let ends = ends.ok_or_else(|| Reject::unavailable("internal", "who asks is not known"))?;
    let (method, headers) = (request.method(), request.headers());
    check_host(request.uri(), headers, &api.access.names, ends.ours.ip())?;
    if writes(method) || path == EVENTS {
        check_origin(headers)?;
    }
    let found = endpoint(method, path);
    if found.is_some_and(|endpoint| endpoint.needs == Needs::Nothing) {
        take(&api, Asker::Stranger(ends.peer.ip()))?;
        return Ok(next.run(request).await);
    }
    let principal = match identify(&api, headers) {
        Ok(principal) => principal,
        Err(unknown) => {
            take(&api, Asker::Stranger(ends.peer.ip()))?;
            return Ok(unauthorized(unknown));
        }
    };
    if path != ROLLBACK {
        take(&api, principal.asker())?;
    }
    if let Err(refused) = admit(method, path, principal.role) {
        return Ok(*refused);
    }
    let _place = match principal.role {
        Role::Worker => Some(api.access.workers.try_acquire().map_err(|_| {
            Reject::unavailable("busy", "too many workers ask at once").after(WORKERS_AGAIN)
        })?),
        _ => None,
    };
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

/// Whether the table of endpoints permits it. What is not in the table nobody may do, whatever the
/// router has.
fn admit(method: &Method, path: &str, role: Role) -> Result<(), Box<Response>> {
    let Some(endpoint) = endpoint(method, path) else {
        let methods = methods(path);
        if methods.is_empty() {
            return Err(Box::new(no_such_path().into_response()));
        }
        let refused = Reject::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "bad-request",
            "this path does not take this method",
            "read with GET; what else there is, Allow says",
        );
        let mut refused = refused.into_response();
        let methods = HeaderValue::from_str(&methods.join(","));
        let methods = methods.expect("names of methods are plain");
        refused.headers_mut().insert(header::ALLOW, methods);
        return Err(Box::new(refused));
    };
    if endpoint.needs.are_met_by(role) {
        return Ok(());
    }
    let may = Role::ALL
        .into_iter()
        .filter(|role| endpoint.needs.are_met_by(*role));
    let may: Vec<&str> = may.map(Role::word).collect();
    let what = format!(
        "the role {} may not do this, only {}",
        role.word(),
        may.join(" or ")
    );
    let hint = "ask with such a token; `segue token create` makes one";
    Err(Box::new(forbidden(what, hint).into_response()))
}

fn identify(api: &Arc<Api>, headers: &HeaderMap) -> Result<Principal, Unknown> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let first = given.next().and_then(|value| value.to_str().ok());
    let only = first.filter(|_| given.next().is_none());
    let now = clock::now();
    let (principal, touch) = api.tokens.who(only, now)?;
    if touch {
        let (api, id) = (Arc::clone(api), principal.id.clone());
        tokio::task::spawn_blocking(move || api.tokens.touch(&id, now));
    }
    Ok(principal)
}

fn take(api: &Api, asker: Asker) -> Result<(), Reject> {
    api.access
        .buckets
        .take(asker, Instant::now())
        .map_err(too_often)
}

fn too_often(wait: Duration) -> Reject {
    let hint = "wait as long as Retry-After says; `[api] rate_limit` allows more; a rollback is \
                never refused for this";
    Reject::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too-often",
        "too many requests",
        hint,
    )
    .after(wait)
}

fn unauthorized(why: Unknown) -> Response {
    let hint = "send `Authorization: Bearer TOKEN`; the local one is in api.token of the state \
                directory, others come from `segue token create`";
    let reject = Reject::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        why.to_string(),
        hint,
    );
    let mut response = reject.into_response();
    let scheme = HeaderValue::from_static("Bearer realm=\"segue\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn forbidden(title: impl Into<String>, hint: &str) -> Reject {
    Reject::new(StatusCode::FORBIDDEN, "forbidden", title, hint)
}

fn check_host(uri: &Uri, headers: &HeaderMap, names: &Names, ours: IpAddr) -> Result<(), Reject> {
    let mut given = headers.get_all(header::HOST).iter();
    let host = given.next().and_then(|value| value.to_str().ok());
    let authority = uri.authority().map(axum::http::uri::Authority::as_str);
    let is_ours = host.is_some_and(|host| names.has(host, ours))
        && given.next().is_none()
        && authority.is_none_or(|authority| names.has(authority, ours));
    if is_ours {
        return Ok(());
    }
    Err(forbidden(
        "this API does not answer to that name",
        "ask for 127.0.0.1, localhost or its address, or write the name into `[api] names`",
    ))
}

/// Nothing of ours is a page, so what comes from one was not meant by a person; a page that we
/// serve ourselves, one day, may ask.
fn check_origin(headers: &HeaderMap) -> Result<(), Reject> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_ascii_lowercase();
    let host = headers.get(header::HOST).map(text).unwrap_or_default();
    let ours = [format!("http://{host}"), format!("https://{host}")];
    let mut origins = headers.get_all(header::ORIGIN).iter().map(text);
    let mut sites = headers.get_all("sec-fetch-site").iter().map(text);
    if origins.all(|origin| ours.contains(&origin))
        && sites.all(|site| matches!(site.as_str(), "same-origin" | "none"))
    {
        return Ok(());
    }
    Err(forbidden(
        "pages of other sites may not ask for this",
        "use `segue`, or a client that sends neither Origin nor Sec-Fetch-Site",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the headers of a write come to: `Ok`, or at which check they fail.
    fn check(headers: &[(&str, &str)]) -> &'static str {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let names = Names::new(&["Segue.example.com".to_owned()]);
        let ours = "192.0.2.7".parse().unwrap();
        if check_host(&Uri::from_static("/v1/status"), &map, &names, ours).is_err() {
            return "host";
        }
        if check_origin(&map).is_err() {
            return "origin";
        }
        "ok"
    }

    #[test]
    fn headers_of_pages_and_strangers_are_refused() {
        for (headers, expected) in [
            // Host alone.
            (&[][..], "host"),
            (&[("host", "localhost")], "ok"),
            (&[("host", "LOCALHOST:7070")], "ok"),
            (&[("host", "127.0.0.1:7070")], "ok"),
            (&[("host", "127.8.8.8")], "ok"),
            (&[("host", "[::1]:7070")], "ok"),
            (&[("host", "192.0.2.7:7070")], "ok"),
            (&[("host", "[::ffff:192.0.2.7]")], "ok"),
            (&[("host", "segue.example.com")], "ok"),
            (&[("host", "SEGUE.example.COM:443")], "ok"),
            (&[("host", "192.0.2.8")], "host"),
            (&[("host", "0.0.0.0")], "host"),
            (&[("host", "evil.example")], "host"),
            (&[("host", "127.0.0.1.evil.example")], "host"),
            (&[("host", "localhost.evil.example")], "host"),
            (&[("host", "segue.example.com.evil.example")], "host"),
            (&[("host", "evil-segue.example.com")], "host"),
            (&[("host", "segue.example.com.")], "host"),
            (&[("host", "localhost@evil.example")], "host"),
            (&[("host", "localhost:7070:7070")], "host"),
            (&[("host", "localhost:+80")], "host"),
            (&[("host", "localhost:x")], "host"),
            (&[("host", "[localhost]")], "host"),
            (&[("host", "[::1")], "host"),
            (&[("host", "::1")], "host"),
            (&[("host", "")], "host"),
            (&[("host", ":7070")], "host"),
            (&[("host", " localhost")], "host"),
            (&[("host", "localhost, evil.example")], "host"),
            (&[("host", "localhost"), ("host", "evil.example")], "host"),
            (&[("host", "localhost\u{e9}")], "host"),
            // What a browser adds.
            (
                &[("host", "localhost"), ("origin", "http://localhost")],
                "ok",
            ),
            (
                &[("host", "localhost:1"), ("origin", "http://localhost:1")],
                "ok",
            ),
            (
                &[("host", "localhost:1"), ("origin", "http://localhost:2")],
                "origin",
            ),
            (
                &[("host", "localhost"), ("origin", "http://evil.example")],
                "origin",
            ),
            (&[("host", "localhost"), ("origin", "null")], "origin"),
            (&[("host", "localhost"), ("origin", "")], "origin"),
            (&[("host", "localhost"), ("origin", "file://")], "origin"),
            (
                &[("host", "localhost"), ("origin", "http://localhost.evil")],
                "origin",
            ),
            (
                &[
                    ("host", "localhost"),
                    ("origin", "http://localhost"),
                    ("origin", "http://evil.example"),
                ],
                "origin",
            ),
            (&[("host", "localhost"), ("sec-fetch-site", "none")], "ok"),
            (
                &[("host", "localhost"), ("sec-fetch-site", "same-origin")],
                "ok",
            ),
            (
                &[("host", "localhost"), ("sec-fetch-site", "same-site")],
                "origin",
            ),
            (
                &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
                "origin",
            ),
            (&[("host", "localhost"), ("sec-fetch-site", "")], "origin"),
            (
                &[
                    ("host", "localhost"),
                    ("origin", "http://localhost"),
                    ("sec-fetch-site", "cross-site"),
                ],
                "origin",
            ),
        ] {
            assert_eq!(check(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_nobody_may_do() {
        let admit = |method: &str, path: &str, role| match admit(
            &Method::from_bytes(method.as_bytes()).unwrap(),
            path,
            role,
        ) {
            Ok(()) => (200, String::new()),
            Err(refused) => {
                let allow = refused.headers().get(header::ALLOW);
                let allow = allow.map_or("", |allow| allow.to_str().unwrap());
                (refused.status().as_u16(), allow.to_owned())
            }
        };
        let is = |status: u16, allow: &str| (status, allow.to_owned());
        for role in Role::ALL {
            // As if the router had them, and somebody forgot the row.
            for path in ["/v1/secrets", "/v1/agents/{agent}/erase", "/v1/status/", ""] {
                assert_eq!(admit("GET", path, role), is(404, ""), "{path}");
            }
            assert_eq!(admit("DELETE", "/v1/status", role), is(405, "GET,HEAD"));
            assert_eq!(admit("TRACE", "/v1/tokens", role), is(405, "GET,HEAD,POST"));
        }
        assert_eq!(admit("HEAD", "/v1/status", Role::Viewer), is(200, ""));
        assert_eq!(admit("GET", "/v1/status", Role::Worker), is(403, ""));
    }

    #[test]
    fn a_target_with_another_authority_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        for (uri, good) in [
            ("/v1/status", true),
            ("http://localhost/v1/status", true),
            ("http://evil.example/v1/status", false),
            ("http://localhost@evil.example/v1/status", false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            let names = Names::default();
            let ours = "127.0.0.1".parse().unwrap();
            assert_eq!(
                check_host(&uri, &headers, &names, ours).is_ok(),
                good,
                "{uri}"
            );
        }
    }
}
