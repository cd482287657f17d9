//! Who may ask. The API moves calls, so being on the same machine is not enough: a token is asked
//! for, and what a web page could make a browser send is refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::Api;
use super::problem::Reject;
use crate::secret;

pub(super) async fn guard(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Reject> {
    check(request.method(), request.headers(), &api.token)?;
    Ok(next.run(request).await)
}

fn check(method: &Method, headers: &HeaderMap, token: &str) -> Result<(), Reject> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !header(header::HOST).is_some_and(is_loopback) {
        return Err(Reject::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this API answers to names of this machine only",
            "ask for 127.0.0.1 or localhost",
        ));
    }
    if headers.contains_key(header::ORIGIN) && *method != Method::GET {
        return Err(Reject::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "web pages may not ask for this",
            "use `segue`, or a client that sends no Origin",
        ));
    }
    let given = header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    if !given.is_some_and(|given| secret::same(given.trim(), token)) {
        return Err(Reject::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token is missing or wrong",
            "send `Authorization: Bearer TOKEN`; it is in api.token of the state directory",
        ));
    }
    Ok(())
}

/// A name that a DNS answer cannot turn towards us.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_ours() {
        for (host, ours) in [
            ("localhost", true),
            ("LOCALHOST:7070", true),
            ("127.0.0.1:7070", true),
            ("[::1]:7070", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), ours, "{host:?}");
        }
    }
}
