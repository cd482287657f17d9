//! How the admin API is reached: on this machine, or on another one with TLS; and asked once more
//! when nobody knows whether it heard.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use segue_controller::api::wire::Problem;
use segue_controller::secret;
use ureq::http::{Method, Request, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::exit::{Exit, Trouble};
use crate::home::Home;

/// How long one request may take. A promotion is answered once it is acknowledged, which may take
/// as long as a lease.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a controller that hung up is waited for: who supervises it starts it again at once.
const COME_BACK_MAX: Duration = Duration::from_secs(5);
/// How long to wait before it is looked for again, or before an answer in the making.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Random bytes of the key that makes one request of two.
const KEY_BYTES: usize = 16;

/// An answer.
pub(crate) type Response = ureq::http::Response<ureq::Body>;

/// Another machine's Segue, as named on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remote {
    /// Where; `None`: the controller of the state folder.
    pub(crate) url: Option<String>,
    /// File with the token; `None`: that of the state folder.
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust; `None`: those that browsers do.
    pub(crate) ca: Option<PathBuf>,
}

/// A way to the admin API.
pub(crate) struct Reach {
    agent: ureq::Agent,
    home: Home,
}

impl Reach {
    pub(crate) fn new(home: &Home) -> Result<Self, Trouble> {
        let remote = home.remote();
        if let Some(url) = &remote.url {
            check(url)?;
            if remote.token_file.is_none() {
                let hint = "name the file with its token: --token-file FILE, or SEGUE_TOKEN_FILE";
                let message = format!("no token for {url}");
                return Err(Trouble::new(Exit::Usage, message, hint));
            }
        } else if home.token().is_none() {
            return Err(never_ran(home));
        }
        let mut tls = TlsConfig::builder();
        if let Some(ca) = &remote.ca {
            tls = tls.root_certs(RootCerts::from(certificates(ca)?));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_MAX))
            .max_redirects(0)
            .tls_config(tls.build())
            .build()
            .into();
        let home = home.clone();
        Ok(Self { agent, home })
    }

    /// Where the controller is now, and the token: it may have been restarted at another port.
    fn base(&self) -> Result<(String, String), Trouble> {
        let remote = self.home.remote();
        let token = match &remote.token_file {
            Some(file) => Some(token(file)?),
            None => self.home.token(),
        };
        let base = match &remote.url {
            Some(url) => Some(url.trim_end_matches('/').to_owned()),
            None => self.home.api_addr().map(|addr| format!("http://{addr}")),
        };
        match (base, token) {
            (Some(base), Some(token)) => Ok((base, format!("Bearer {token}"))),
            _ => Err(away("it is not there yet")),
        }
    }

    /// Sends a request; answers what is no error. A change carries a key, so that it may be sent a
    /// second time when the first was not answered, and is carried out once.
    pub(crate) fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Response, Trouble> {
        let key = secret::random_hex(KEY_BYTES);
        let key = key.map_err(|error| away(&error.to_string()))?;
        let began = Instant::now();
        let mut lost: Option<Instant> = None;
        loop {
            match self.once(method, path, &key, body)? {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(mut response) => {
                    let status = response.status().as_u16();
                    let problem: Option<Problem> = response.body_mut().read_json().ok();
                    let kind = problem.as_ref().map(|problem| problem.kind.as_str());
                    // The first one is still being carried out.
                    if kind == Some("in-progress") && began.elapsed() < REQUEST_MAX {
                        park_timeout(LOOK_AGAIN);
                        continue;
                    }
                    return Err(refusal(status, problem));
                }
                Err(error) => match (was_sent(&error), lost) {
                    // It may have been heard; it is asked once more.
                    (true, None) => lost = Some(Instant::now()),
                    (false, Some(lost)) if lost.elapsed() < COME_BACK_MAX => {
                        park_timeout(LOOK_AGAIN);
                    }
                    _ => return Err(away(&error.to_string())),
                },
            }
        }
    }

    fn once(
        &self,
        method: &Method,
        path: &str,
        key: &str,
        body: Option<&[u8]>,
    ) -> Result<Result<Response, ureq::Error>, Trouble> {
        let (base, token) = self.base()?;
        let is_change = *method != Method::GET;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{base}{path}"))
            .header("Authorization", token);
        if is_change {
            request = request.header("Idempotency-Key", key);
        }
        let unusable = |error: ureq::http::Error| {
            let hint = "see the address, the names and the token file for strange characters";
            Trouble::new(Exit::Usage, error.to_string(), hint)
        };
        Ok(match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.agent.run(request.body(body).map_err(unusable)?)
            }
            None => self.agent.run(request.body(()).map_err(unusable)?),
        })
    }
}

/// Whether the controller may have heard a request that was not answered.
fn was_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        ),
        ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

/// A token goes over a line that nobody else reads, or over none.
fn check(url: &str) -> Result<(), Trouble> {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host);
    let is_local = host.is_some_and(|host| {
        let literal = host.trim_matches(['[', ']']);
        host == "localhost" || literal.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    });
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let path = uri.as_ref().map_or("", Uri::path);
    match scheme {
        Some("https" | "http") if path.len() > 1 => {}
        Some("https") => return Ok(()),
        Some("http") if is_local => return Ok(()),
        Some("http") => {
            let message = format!("{url} would take the token over the network in the open");
            let hint = "use https; the API speaks it with `tls` below [api]";
            return Err(Trouble::new(Exit::Usage, message, hint));
        }
        _ => {}
    }
    let message = format!("{url} is no address of an API");
    let hint = "give it like https://segue.example.com:7070, without a path";
    Err(Trouble::new(Exit::Usage, message, hint))
}

fn token(file: &Path) -> Result<String, Trouble> {
    let bad = |why: String| {
        let message = format!("no token in {}: {why}", file.display());
        let hint = "`segue token create` prints one; keep it in a file that only you may read";
        Trouble::new(Exit::Usage, message, hint)
    };
    let text = fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(bad("it is not one word".to_owned()));
    }
    Ok(token.to_owned())
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Trouble> {
    let bad = |why: String| {
        let message = format!("no certificates in {}: {why}", file.display());
        let hint = "give a PEM file: the certificate itself, or that of who signed it";
        Trouble::new(Exit::Usage, message, hint)
    };
    let pem = fs::read(file).map_err(|error| bad(error.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(bad("it holds none".to_owned()));
    }
    Ok(found)
}

/// There is nothing of Segue in this folder.
pub(crate) fn never_ran(home: &Home) -> Trouble {
    Trouble::new(
        Exit::Unreachable,
        format!(
            "no controller has run with state in {}",
            home.path().display()
        ),
        "start one with `segue serve`, or name its state folder with --home",
    )
}

fn away(why: &str) -> Trouble {
    Trouble::new(
        Exit::Unreachable,
        format!("no controller answers: {why}"),
        "calls go on without it; start it with `segue serve`, see `segue logs controller`",
    )
}

fn refusal(status: u16, problem: Option<Problem>) -> Trouble {
    let kind = problem.as_ref().map(|problem| problem.kind.as_str());
    let exit = match (status, kind) {
        (400 | 404, _) | (422, Some("bad-release" | "reason-needed" | "ambiguous")) => Exit::Usage,
        (409, Some("conflict")) | (412, _) => Exit::Conflict,
        (409, Some("in-progress" | "outcome-unknown")) => Exit::Failed,
        (409 | 422, _) => Exit::Refused,
        _ => Exit::Failed,
    };
    match problem {
        Some(problem) => Trouble {
            exit,
            message: problem.title,
            hint: problem.hint,
        },
        None => Trouble {
            exit,
            message: format!("the controller answered with status {status}"),
            hint: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_over_no_line_that_others_read() {
        for (url, good) in [
            ("https://segue.example.com:7070", true),
            ("https://segue.example.com/", true),
            ("http://127.0.0.1:7070", true),
            ("http://[::1]:7070", true),
            ("http://localhost:7070", true),
            ("http://segue.example.com:7070", false),
            ("http://10.0.0.1:7070", false),
            ("http://localhost.evil.example", false),
            ("https://segue.example.com/api", false),
            ("ftp://127.0.0.1", false),
            ("segue.example.com", false),
            ("", false),
        ] {
            assert_eq!(check(url).is_ok(), good, "{url}");
        }
    }
}
