//! Segue's API, as far as a worker needs it. Requests block, each for at most [`ANSWER_MAX`]: a call
//! must not wait for a Segue that is away.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use segue_core::names::{AgentName, BadName, CallId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ureq::http::{Method, Request};

use crate::membership::{Papers, Stands};
use crate::outcome::Outcome;

/// How long an answer may take: one on this machine takes a few milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes: the state of a call is 64 KiB, and what is around it.
const ANSWER_BYTES_MAX: u64 = 128 * 1024;
/// Longest token, in bytes; ours are below 200.
const TOKEN_BYTES_MAX: usize = 4_096;

/// What a worker finds in its environment. All of it may be missing: a worker that Segue did not
/// start has what its operator gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// `SEGUE_AGENT`.
    pub agent: Option<String>,
    /// `SEGUE_WORKER_ID`.
    pub worker: Option<String>,
    /// `SEGUE_RELEASE`: the label.
    pub release: Option<String>,
    /// `SEGUE_API_URL`.
    pub api_url: Option<String>,
    /// `SEGUE_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// `SEGUE_MEMBERSHIP_TOKEN_FILE`: a worker token, which is shown to Segue.
    pub membership_token_file: Option<PathBuf>,
    /// `SEGUE_MEMBERSHIP_KEY_FILE`: the key of a token that is bound to one.
    pub membership_key_file: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads it; an empty variable is none.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).filter(|text| !text.is_empty());
        Self {
            agent: text("SEGUE_AGENT"),
            worker: text("SEGUE_WORKER_ID"),
            release: text("SEGUE_RELEASE"),
            api_url: text("SEGUE_API_URL"),
            token_file: text("SEGUE_TOKEN_FILE").map(PathBuf::from),
            membership_token_file: text("SEGUE_MEMBERSHIP_TOKEN_FILE").map(PathBuf::from),
            membership_key_file: text("SEGUE_MEMBERSHIP_KEY_FILE").map(PathBuf::from),
        }
    }
}

/// Why Segue cannot be asked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoSegue {
    /// The operator sets the variable.
    #[error("{0} is not set\nhint: Segue sets it for workers that it starts; set it for others")]
    Missing(&'static str),
    /// The operator corrects the variable.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// The operator corrects the variable.
    #[error("SEGUE_API_URL is no address: {0}\nhint: it looks like http://127.0.0.1:7070")]
    BadUrl(String),
}

/// Why Segue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegueError {
    /// Whoever asked may ask again; the call goes on.
    #[error("Segue was not reached: {0}")]
    Unreachable(String),
    /// The operator gives this worker a token that it can read.
    #[error("the token in {path} cannot be read")]
    Token {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The operator gives this worker the key of its membership.
    #[error("the key in {path} cannot be used: {why}")]
    Key {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The state of a call is not the one that was expected: somebody else has written.
    #[error("somebody else has written the state of this call")]
    Stale,
    /// See the title.
    #[error("Segue refused with {status}: {title}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        title: String,
    },
}

impl SegueError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            // A token may be replaced while we run.
            Self::Unreachable(_) | Self::Token { .. } | Self::Key { .. } => true,
            Self::Stale => false,
            Self::Refused { status, .. } => matches!(status, 401 | 403 | 408 | 429 | 500..),
        }
    }
}

/// The state of a call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CallState {
    /// Grows with every write.
    pub version: u64,
    /// What was written.
    pub state: Map<String, Value>,
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Beat {
    /// One process: several may have one worker's name.
    pub(crate) instance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    pub(crate) active: usize,
    pub(crate) overdue: usize,
    pub(crate) draining: bool,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Told {
    /// The state of its release in one word; none: Segue does not know such a release.
    #[serde(default)]
    pub(crate) state: Option<String>,
    #[serde(default)]
    pub(crate) retiring: bool,
    #[serde(default)]
    pub(crate) rolled_back: bool,
    /// Seconds until the next heartbeat.
    #[serde(default)]
    pub(crate) every: u64,
    /// What this worker may do by its membership; none: Segue knows of no membership of it.
    #[serde(default)]
    pub(crate) membership: Option<Stands>,
}

/// Segue, as one agent's worker asks it.
#[derive(Debug, Clone)]
pub struct Segue {
    pub(crate) agent: AgentName,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) papers: Option<Papers>,
    url: String,
    token_file: Option<PathBuf>,
    http: ureq::Agent,
}

impl Segue {
    /// Segue as the environment says. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// When something needed is missing or wrong.
    pub fn new(environment: &Environment) -> Result<Self, NoSegue> {
        let url = environment.api_url.as_ref();
        let url = url.ok_or(NoSegue::Missing("SEGUE_API_URL"))?;
        let agent = environment.agent.as_ref();
        let agent = agent.ok_or(NoSegue::Missing("SEGUE_AGENT"))?.parse()?;
        let worker = environment.worker.as_ref().map(|name| name.parse());
        let parsed: Result<ureq::http::Uri, _> = url.parse();
        let is_good = parsed.is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        });
        if !is_good {
            return Err(NoSegue::BadUrl(url.clone()));
        }
        if environment.membership_token_file.is_some() && worker.is_none() {
            return Err(NoSegue::Missing("SEGUE_WORKER_ID"));
        }
        let papers = environment.membership_token_file.clone();
        let papers = papers.map(|token_file| Papers {
            token_file,
            key_file: environment.membership_key_file.clone(),
        });
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_MAX))
            .http_status_as_error(false)
            .max_redirects(0)
            // A token goes where it was meant to go.
            .proxy(None)
            .build();
        Ok(Self {
            agent,
            worker: worker.transpose()?,
            papers,
            url: url.trim_end_matches('/').to_owned(),
            token_file: environment.token_file.clone(),
            http: http.into(),
        })
    }

    /// The agent.
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// This worker, if it has a name.
    pub fn worker(&self) -> Option<&WorkerId> {
        self.worker.as_ref()
    }

    pub(crate) fn beat(&self, beat: &Beat) -> Result<Told, SegueError> {
        let Some(worker) = &self.worker else {
            return Ok(Told::default());
        };
        let path = format!("/v1/agents/{}/workers/{worker}", self.agent);
        let (_, body) = self.ask(Method::PUT, &path, &[], Some(&json!(beat)))?;
        read(&body)
    }

    pub(crate) fn report(
        &self,
        call: &CallId,
        report: &str,
        release: Option<&str>,
        outcome: &Outcome,
    ) -> Result<(), SegueError> {
        let path = format!("/v1/agents/{}/calls/{call}/outcome", self.agent);
        let mut body = json!(outcome);
        body["report"] = json!(report);
        if let Some(release) = release {
            body["release"] = json!(release);
        }
        if let Some(worker) = &self.worker {
            body["worker"] = json!(worker);
        }
        self.ask(Method::POST, &path, &[], Some(&body)).map(drop)
    }

    /// The state of a call, if it has one.
    ///
    /// # Errors
    ///
    /// A [`SegueError`].
    pub fn state(&self, call: &CallId) -> Result<Option<CallState>, SegueError> {
        match self.ask(Method::GET, &self.state_path(call), &[], None) {
            Ok((_, body)) => read(&body).map(Some),
            Err(SegueError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the state of a call; answers its version. With `after`, only if that is the version
    /// that is there; 0: if there is none.
    ///
    /// # Errors
    ///
    /// A [`SegueError`]: `Stale` when somebody else has written.
    pub fn put_state(
        &self,
        call: &CallId,
        state: &Map<String, Value>,
        after: Option<u64>,
    ) -> Result<u64, SegueError> {
        self.write(Method::PUT, call, state, after)
    }

    /// Merges into the state of a call (RFC 7396); answers its version.
    ///
    /// # Errors
    ///
    /// A [`SegueError`].
    pub fn patch_state(
        &self,
        call: &CallId,
        patch: &Map<String, Value>,
        after: Option<u64>,
    ) -> Result<u64, SegueError> {
        self.write(Method::PATCH, call, patch, after)
    }

    /// Removes the state of a call. That there is none is as good.
    ///
    /// # Errors
    ///
    /// A [`SegueError`].
    pub fn remove_state(&self, call: &CallId) -> Result<(), SegueError> {
        match self.ask(Method::DELETE, &self.state_path(call), &[], None) {
            Ok(_) | Err(SegueError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write(
        &self,
        method: Method,
        call: &CallId,
        state: &Map<String, Value>,
        after: Option<u64>,
    ) -> Result<u64, SegueError> {
        let condition = match after {
            None => None,
            Some(0) => Some(("If-None-Match", "*".to_owned())),
            Some(version) => Some(("If-Match", format!("\"{version}\""))),
        };
        let condition: Vec<(&str, String)> = condition.into_iter().collect();
        let (_, body) = self.ask(
            method,
            &self.state_path(call),
            &condition,
            Some(&json!(state)),
        )?;
        read::<CallState>(&body).map(|state| state.version)
    }

    fn state_path(&self, call: &CallId) -> String {
        format!("/v1/calls/{call}/state?agent={}", self.agent)
    }

    /// The body of an answer that is none of a failure.
    fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), SegueError> {
        let (status, body) = self.send(method, path, headers, body)?;
        match status {
            200..300 => Ok((status, body)),
            412 => Err(SegueError::Stale),
            _ => Err(SegueError::Refused {
                status,
                title: title(&body),
            }),
        }
    }

    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), SegueError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(path) = &self.token_file {
            request = request.header("Authorization", format!("Bearer {}", read_secret(path)?));
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let unreachable = |error: ureq::Error| SegueError::Unreachable(error.to_string());
        let bad = |error: ureq::http::Error| SegueError::Unreachable(error.to_string());
        let sent = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json");
                self.http.run(request.body(body.to_string()).map_err(bad)?)
            }
            // `DELETE` and `GET` have none.
            None => self.http.run(request.body(()).map_err(bad)?),
        };
        let mut answer = sent.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let body = body.read_to_vec().map_err(unreachable)?;
        Ok((status, body))
    }
}

/// Read each time: a token may be replaced while this process runs.
pub(crate) fn read_secret(path: &Path) -> Result<String, SegueError> {
    let failed = |source| SegueError::Token {
        path: path.to_owned(),
        source,
    };
    let token = std::fs::read_to_string(path).map_err(failed)?;
    let token = token.trim();
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !is_plain {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidData)));
    }
    Ok(token.to_owned())
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, SegueError> {
    let odd = |error| SegueError::Unreachable(format!("its answer is not understood: {error}"));
    serde_json::from_slice(body).map_err(odd)
}

/// What a problem says, if it is one.
pub(crate) fn title(body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let title = problem["title"].as_str().unwrap_or("it did not say why");
    title.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_and_checked() {
        let read = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            Environment::read(|name| {
                set.iter()
                    .find(|(is, _)| is == name)
                    .map(|(_, value)| value.clone())
            })
        };
        assert_eq!(read(&[("SEGUE_AGENT", "")]), Environment::default());
        let why = |set: &[(&str, &str)]| Segue::new(&read(set)).unwrap_err().to_string();
        let url = ("SEGUE_API_URL", "http://127.0.0.1:7070/");
        assert!(why(&[]).starts_with("SEGUE_API_URL is not set"));
        assert!(why(&[url]).starts_with("SEGUE_AGENT is not set"));
        assert!(why(&[url, ("SEGUE_AGENT", "a b")]).contains("agent name \"a b\""));
        for bad in ["127.0.0.1:7070", "ftp://x", "http:///x", "x"] {
            let why = why(&[("SEGUE_API_URL", bad), ("SEGUE_AGENT", "desk")]);
            assert!(why.contains("is no address"), "{bad}: {why}");
        }
        let segue = Segue::new(&read(&[url, ("SEGUE_AGENT", "desk")])).unwrap();
        assert_eq!(segue.url, "http://127.0.0.1:7070");
    }
}
