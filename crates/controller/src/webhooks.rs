//! Webhook gates: somebody else is asked whether a release may go on.
//!
//! As with smoke calls, what is wanted is a level: an attempt that is wanted is asked about once,
//! its outcome stands until something else is wanted, and one that is no longer wanted is given
//! up. So nothing is lost while the journal cannot be written, and a restarted controller asks
//! again, with the same delivery id.
//!
//! A *no* is a no. Silence is neither: after all tries it is for a person to decide. A rollback
//! asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::names::AgentName;
use segue_core::rollout::{Event, Gate, Verdict, WEBHOOK_PAUSE_MAX};
use segue_core::spec::Webhook;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::outbound::{Answer, Client, Failure, Line, Message, delivery_id};

/// Pause before the first repetition; it doubles with each, up to [`WEBHOOK_PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest reason that is written down, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Who is asked about what.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// Number of the rollout, and of the attempt in it.
    pub(crate) of: (u64, u32),
    pub(crate) webhook: Webhook,
    /// Whether the configuration still knows it. The log does not know all of an address, so
    /// without the configuration nobody can be asked.
    pub(crate) is_configured: bool,
    /// What the receiver reads.
    pub(crate) body: Value,
}

/// Asks, each webhook of an agent at most once at a time.
#[derive(Debug)]
pub(crate) struct Asker {
    client: Client,
    /// Rung when an answer is there.
    bell: Arc<Notify>,
    runs: BTreeMap<(AgentName, String), Run>,
}

#[derive(Debug)]
struct Run {
    of: (u64, u32),
    outcome: Arc<Mutex<Option<(Verdict, Value)>>>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

impl Asker {
    pub(crate) fn new(client: Client, bell: Arc<Notify>) -> Self {
        let runs = BTreeMap::new();
        Self { client, bell, runs }
    }

    /// Whether this question was asked.
    pub(crate) fn has(&self, agent: &AgentName, name: &str, of: (u64, u32)) -> bool {
        let key = (agent.clone(), name.to_owned());
        self.runs.get(&key).is_some_and(|run| run.of == of)
    }

    /// Gives up what is not wanted of an agent any more.
    pub(crate) fn keep(&mut self, agent: &AgentName, wanted: &BTreeSet<(String, (u64, u32))>) {
        self.runs.retain(|(of_agent, name), run| {
            of_agent != agent || wanted.contains(&(name.clone(), run.of))
        });
    }

    /// Asks, if that was not done yet.
    pub(crate) fn begin(&mut self, agent: &AgentName, question: Question) {
        let (of, name) = (question.of, question.webhook.name.clone());
        if self.has(agent, &name, of) {
            return;
        }
        let outcome = Arc::new(Mutex::new(None));
        let (result, bell) = (Arc::clone(&outcome), Arc::clone(&self.bell));
        let (client, of_agent) = (self.client.clone(), agent.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let answer = ask(&client, &of_agent, &question).await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            bell.notify_one();
        });
        let run = Run {
            of,
            outcome,
            _task: task,
        };
        self.runs.insert((agent.clone(), name), run);
    }

    /// What was answered to an agent's questions.
    pub(crate) fn outcomes(&self, agent: &AgentName) -> Vec<Event> {
        let of_agent = self.runs.iter().filter(|((of, _), _)| of == agent);
        let event = |((_, name), run): (&(AgentName, String), &Run)| {
            let outcome = run.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            let (verdict, report) = outcome.clone()?;
            let (rollout, attempt) = run.of;
            Some(Event::GateFinished {
                rollout,
                attempt,
                gate: Gate::Webhook(name.clone()),
                verdict,
                report,
            })
        };
        of_agent.filter_map(event).collect()
    }
}

async fn ask(client: &Client, agent: &AgentName, question: &Question) -> (Verdict, Value) {
    let Question {
        of,
        webhook,
        is_configured,
        body,
    } = question;
    if !is_configured {
        let why = format!(
            "webhook {} is not in the configuration any more, so nobody was asked",
            webhook.name
        );
        let report = json!({ "tries": 0, "answer": why });
        return (no_answer(&why), report);
    }
    let (rollout, attempt) = (of.0.to_string(), of.1.to_string());
    let delivery = delivery_id(&["webhook", agent.as_str(), &rollout, &attempt, &webhook.name]);
    let message = Message::json(delivery, body);
    let timeout = Duration::from_millis(webhook.timeout.0);
    let longest = Duration::from_millis(WEBHOOK_PAUSE_MAX.0);
    let mut backoff = Backoff::new(PAUSE_FIRST, longest);
    let mut tries = 0;
    loop {
        tries += 1;
        let line = Line::Gate {
            agent: agent.as_str(),
            webhook: &webhook.name,
        };
        let made = client
            .post(line, &webhook.to, message.clone(), timeout)
            .await;
        let reading = read(made);
        let report = |said: &str| json!({ "tries": tries, "answer": said });
        let why = match reading {
            Reading::Verdict(verdict, said) => return (verdict, report(&said)),
            Reading::Never(why) => return (no_answer(&why), report(&why)),
            Reading::NotNow(why) => why,
        };
        tracing::warn!(agent = %agent, webhook = webhook.name, tries, why, "no verdict");
        if tries > webhook.retries {
            return (no_answer(&why), report(&why));
        }
        sleep(backoff.pause()).await;
    }
}

fn no_answer(why: &str) -> Verdict {
    Verdict::Inconclusive(format!("no verdict: {why}"))
}

/// What a try came to.
#[derive(Debug, PartialEq)]
enum Reading {
    /// It was answered; with what was said.
    Verdict(Verdict, String),
    /// It may be answered when it is asked again.
    NotNow(String),
    /// Asking again helps nobody.
    Never(String),
}

#[derive(Deserialize)]
struct Body {
    verdict: Option<String>,
    reason: Option<String>,
}

fn read(made: Result<Answer, Failure>) -> Reading {
    let answer = match made {
        Ok(answer) => answer,
        Err(failure) if failure.is_retryable() => return Reading::NotNow(failure.to_string()),
        Err(failure) => return Reading::Never(failure.to_string()),
    };
    let Answer { status, body } = answer;
    let body = body.trim_ascii();
    let parsed = serde_json::from_slice::<Body>(body);
    match status {
        200..=299 if body.is_empty() => {
            Reading::Verdict(Verdict::Successful, format!("{status} without a word"))
        }
        200..=299 => said(parsed),
        // These two mean: ask again.
        408 | 429 => Reading::NotNow(format!("it answered {status}")),
        400..=499 => {
            let reason = parsed.ok().and_then(|body| body.reason);
            let reason = reason.map_or_else(String::new, |reason| format!(": {}", plain(&reason)));
            let why = format!("it answered {status}{reason}");
            Reading::Verdict(Verdict::Failed(why.clone()), why)
        }
        300..=399 => Reading::Never(format!("it answered {status}; redirects are not followed")),
        _ => Reading::NotNow(format!("it answered {status}")),
    }
}

fn said(parsed: serde_json::Result<Body>) -> Reading {
    let unknown = || {
        let why = "its answer has no verdict: successful, failed or inconclusive";
        Reading::Never(why.to_owned())
    };
    let Ok(Body { verdict, reason }) = parsed else {
        return unknown();
    };
    let reason = plain(&reason.unwrap_or_default());
    let given = |word: &str| {
        let text = if reason.is_empty() { word } else { &reason };
        text.to_owned()
    };
    match verdict.as_deref() {
        Some("successful") => Reading::Verdict(Verdict::Successful, given("successful")),
        Some("failed") => {
            let why = given("it said no");
            Reading::Verdict(Verdict::Failed(why.clone()), why)
        }
        Some("inconclusive") => {
            let why = given("it cannot tell");
            Reading::Verdict(Verdict::Inconclusive(why.clone()), why)
        }
        _ => unknown(),
    }
}

/// One line of bounded length: it is written down and shown.
fn plain(text: &str) -> String {
    let chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let line: String = chars.take(REASON_CHARS_MAX).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_is_a_no_and_silence_is_not() {
        let answer = |status, body: &str| {
            let body = body.as_bytes().to_vec();
            read(Ok(Answer { status, body }))
        };
        let said = |verdict, text: &str| Reading::Verdict(verdict, text.to_owned());
        let no = |why: &str| said(Verdict::Failed(why.to_owned()), why);
        let unclear = |why: &str| said(Verdict::Inconclusive(why.to_owned()), why);
        let yes = |text| said(Verdict::Successful, text);
        assert_eq!(answer(204, ""), yes("204 without a word"));
        assert_eq!(answer(200, " \n"), yes("200 without a word"));
        assert_eq!(
            answer(200, r#"{"verdict":"successful"}"#),
            yes("successful")
        );
        let body = r#"{"verdict":"failed","reason":"freeze\n week"}"#;
        assert_eq!(answer(200, body), no("freeze  week"));
        assert_eq!(answer(201, r#"{"verdict":"failed"}"#), no("it said no"));
        let body = r#"{"verdict":"inconclusive","reason":"ask Ann"}"#;
        assert_eq!(answer(200, body), unclear("ask Ann"));
        assert_eq!(answer(403, ""), no("it answered 403"));
        let body = r#"{"reason":"no ticket"}"#;
        assert_eq!(answer(422, body), no("it answered 422: no ticket"));
        for body in ["ok", "{}", r#"{"verdict":"maybe"}"#, "[]", "<html>"] {
            assert!(matches!(answer(200, body), Reading::Never(_)), "{body}");
        }
        assert!(matches!(answer(302, ""), Reading::Never(_)));
        for status in [408, 429, 500, 502, 503, 504, 101] {
            assert!(matches!(answer(status, ""), Reading::NotNow(_)), "{status}");
        }
        let late = Failure::Late(Duration::from_secs(1));
        assert!(matches!(read(Err(late)), Reading::NotNow(_)));
        let refused = Failure::Refused("not public".to_owned());
        assert!(matches!(read(Err(refused)), Reading::Never(_)));
        let long = format!(r#"{{"verdict":"failed","reason":"{}"}}"#, "x".repeat(9_000));
        let Reading::Verdict(_, said) = answer(200, &long) else {
            panic!("it is an answer");
        };
        assert_eq!(said.len(), REASON_CHARS_MAX);
    }
}
