//! This worker's membership: shown to Segue at the start, again when it is another one, and when Segue
//! has forgotten it.
//!
//! Segue decides by it who gets calls. What is done here is for the workers that get theirs without
//! Segue, and so that an agent knows. Only a clear word bars a worker from new calls: while Segue is
//! away, or does not do memberships, it may do what it might before.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use segue_core::names::Environment as Place;
use segue_core::time::Timestamp;
use segue_membership::{SigningKey, look, sign_proof};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::drain::Standing;
use crate::segue::{Segue, SegueError, read_secret, title};

/// How long a membership that was refused, or that nobody wanted, is not shown again: each refusal is
/// written down where all are.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Longest key file, in bytes; ours are below 200.
const KEY_BYTES_MAX: usize = 4_096;

/// Where a worker has its membership. Both are read again each time: tokens that are bound to a key
/// last for minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Papers {
    pub(crate) token_file: PathBuf,
    /// None: the token is its bearer's.
    pub(crate) key_file: Option<PathBuf>,
}

/// What Segue says a worker may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Stands {
    Serving,
    Draining {
        #[serde(default)]
        why: Option<String>,
    },
    /// A word of a later Segue.
    #[serde(other)]
    Unknown,
}

impl Stands {
    /// What follows from it; nothing from what is not known.
    pub(crate) fn standing(&self) -> Option<Standing> {
        match self {
            Self::Serving => Some(Standing::Admitted),
            Self::Draining { why } => Some(Standing::Barred {
                why: why.clone().unwrap_or_else(|| "draining".to_owned()),
            }),
            Self::Unknown => None,
        }
    }
}

/// How a membership was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Shown {
    /// It was not shown yet, or there is none.
    #[default]
    No,
    Taken(Stands),
    Refused {
        /// In one word.
        why: String,
    },
    /// Nobody has judged it.
    Failed {
        error: String,
    },
}

/// When to show it.
#[derive(Debug, Default)]
pub(crate) struct Showing {
    token: Option<String>,
    not_before: Option<Instant>,
}

impl Showing {
    /// Shows it if it is to be; `registered`: whether Segue knows of one.
    pub(crate) fn look(&mut self, segue: &Segue, registered: bool) -> Option<Shown> {
        let papers = segue.papers.as_ref()?;
        let token = match read_secret(&papers.token_file) {
            Ok(token) => token,
            Err(error) => {
                let error = error.to_string();
                return Some(Shown::Failed { error });
            }
        };
        let is_new = self.token.as_ref() != Some(&token);
        let waits = self.not_before.is_some_and(|at| Instant::now() < at);
        if !is_new && (registered || waits) {
            return None;
        }
        let (shown, not_before) = match segue.show(papers, &token) {
            Ok(Shown::Refused { why }) => {
                (Shown::Refused { why }, Some(Instant::now() + AGAIN_AFTER))
            }
            Ok(shown) => (shown, None),
            Err(error) => {
                let is_soon = error.is_retryable();
                let wait = (!is_soon).then(|| Instant::now() + AGAIN_AFTER);
                let error = error.to_string();
                if is_soon {
                    // As if it had not been tried: Segue may know another one of this worker.
                    return Some(Shown::Failed { error });
                }
                (Shown::Failed { error }, wait)
            }
        };
        self.token = Some(token);
        self.not_before = not_before;
        Some(shown)
    }
}

/// What makes a refusal of the gate one, and not one of the API.
#[derive(Deserialize)]
struct Problem {
    reason: String,
    #[serde(default)]
    nonce: Option<String>,
}

impl Segue {
    /// Shows a membership.
    fn show(&self, papers: &Papers, token: &str) -> Result<Shown, SegueError> {
        let Some(worker) = &self.worker else {
            return Ok(Shown::No);
        };
        let path = format!("/v1/agents/{}/workers/{worker}/membership", self.agent);
        let mut body = json!({ "token": token });
        let (mut status, mut answer) = self.send(Method::POST, &path, &[], Some(&body))?;
        let nonce = match (status, serde_json::from_slice(&answer)) {
            (401, Ok(Problem { nonce, .. })) => nonce,
            _ => None,
        };
        if let (Some(nonce), Some(key)) = (nonce, &papers.key_file) {
            body["proof"] = Value::from(prove(key, token, &nonce)?);
            (status, answer) = self.send(Method::POST, &path, &[], Some(&body))?;
        }
        match status {
            200..300 => serde_json::from_slice(&answer)
                .map(Shown::Taken)
                .map_err(|error| SegueError::Unreachable(error.to_string())),
            401 | 403 if let Some(why) = refusal(&answer) => Ok(Shown::Refused { why }),
            _ => Err(SegueError::Refused {
                status,
                title: title(&answer),
            }),
        }
    }
}

/// Why a gate refuses, if it does. One that is full, or whose disk is, has not judged.
fn refusal(answer: &[u8]) -> Option<String> {
    let problem: Problem = serde_json::from_slice(answer).ok()?;
    Some(problem.reason).filter(|is| !matches!(is.as_str(), "crowded" | "store"))
}

fn prove(key_file: &PathBuf, token: &str, nonce: &str) -> Result<String, SegueError> {
    let bad = |why: String| SegueError::Key {
        path: key_file.clone(),
        why,
    };
    let pem = std::fs::read_to_string(key_file).map_err(|error| bad(error.to_string()))?;
    if pem.len() > KEY_BYTES_MAX {
        return Err(bad("it is too long".to_owned()));
    }
    let key = SigningKey::from_pem(&pem).map_err(|error| bad(error.to_string()))?;
    let looked = look::look(token).map_err(|error| bad(error.to_string()))?;
    let place = looked.claims["aud"].as_str().unwrap_or_default();
    let place: Place = place
        .parse()
        .map_err(|_| bad("the token is for nowhere".to_owned()))?;
    // The gate compares with its own clock, so this is the one that may be set right meanwhile.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_millis());
    let now = Timestamp(u64::try_from(now).unwrap_or(u64::MAX));
    Ok(sign_proof(&place, token, nonce, now, &key))
}

#[cfg(test)]
mod tests {
    use segue_membership::{WorkerClaims, sign_worker};

    use super::*;

    #[test]
    fn a_state_that_nobody_knows_bars_nobody() {
        let read = |text: &str| serde_json::from_str::<Stands>(text).ok();
        assert_eq!(
            read(r#"{"state":"serving","why":null}"#),
            Some(Stands::Serving)
        );
        let why = Some("fell-out".to_owned());
        let draining = read(r#"{"state":"draining","why":"fell-out"}"#);
        assert_eq!(draining, Some(Stands::Draining { why }));
        let later = read(r#"{"state":"asleep","why":null}"#).unwrap();
        assert_eq!(later.standing(), None);
    }

    #[test]
    fn a_proof_is_for_the_place_of_the_token_and_says_what_it_lacks() {
        let dir = std::env::temp_dir().join(format!("segue-proof-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("w.pem");
        let key = SigningKey::from_seed([7; 32]);
        let claims: WorkerClaims = serde_json::from_value(json!({
            "iss": "acme", "aud": "production", "agent": "desk", "version": "v2",
            "digest": "0".repeat(64), "sub": "w1", "jti": "t1",
            "iat": 1, "nbf": 1, "exp": 2, "cnf": { "jwk": key.public() },
        }))
        .unwrap();
        let token = sign_worker(&claims, &SigningKey::from_seed([8; 32]));
        let why = |token: &str| prove(&file, token, "n").unwrap_err().to_string();
        assert!(why(&token).contains("cannot be used"));
        std::fs::write(&file, key.to_pem()).unwrap();
        assert!(why("no token").contains("cannot be used"));
        let looked = look::look(&prove(&file, &token, "n1").unwrap()).unwrap();
        assert_eq!(looked.typ, "membership-proof+jwt");
        assert_eq!(
            (looked.kid, &looked.claims["aud"]),
            (key.kid(), &json!("production"))
        );
        assert_eq!(looked.claims["nonce"], "n1");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
