//! One scripted call with a verdict: what a release must pass before it takes calls.
//!
//! A scenario fails for what a caller would notice, and each reason is a sentence a person can act
//! on. The measurements are kept with the verdict, passed or not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::ClientConfig;

use crate::caller::{self, CallEnd, CallPlan, CallReport, Expectation, Turn, TurnReport};
use crate::calllog::CallLog;
use crate::clips::Clip;
use crate::likeness::LIKENESS_MIN;

/// Time to connect.
const CONNECT_MS_MAX: u64 = 5_000;
/// Time to the first voice, of the greeting and of each answer, in the built-in scenario. Callers
/// feel anything above one second; this is where they say "hello?".
const VOICE_MS_MAX: u64 = 3_000;

/// Protocol a scenario speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Profile {
    /// Twilio Media Streams.
    Twilio,
}

/// A scripted call.
#[derive(Debug, Clone, Serialize)]
pub struct Scenario {
    /// Short name.
    pub name: String,
    /// Protocol.
    pub profile: Profile,
    /// The agent's first sentence; if `None`, the caller speaks first.
    pub greeting: Option<Expectation>,
    /// What is said, once.
    pub turns: Vec<Turn>,
}

impl Scenario {
    /// Names of the built-in scenarios.
    pub const BUILTIN: &[&str] = &["hours"];

    /// The built-in scenario called `name`.
    pub fn builtin(name: &str) -> Option<Self> {
        (name == "hours").then(Self::hours)
    }

    /// Hears the greeting, asks for the opening hours, then for the address.
    pub fn hours() -> Self {
        let within_ms = VOICE_MS_MAX;
        let turn = |say: Clip, answer: Clip| Turn {
            say: say.audio(),
            expect: Some(answer.audio()),
            within_ms,
        };
        let greeting = Clip::Greeting.audio();
        Self {
            name: "hours".to_owned(),
            profile: Profile::Twilio,
            greeting: Some(Expectation {
                audio: Some(greeting),
                within_ms,
            }),
            turns: vec![
                turn(Clip::AskHours, Clip::Hours),
                turn(Clip::AskAddress, Clip::Address),
            ],
        }
    }
}

/// Whether the release did what the scenario asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// It did.
    Passed,
    /// It did not.
    Failed {
        /// Why, in words; at least one.
        reasons: Vec<String>,
    },
}

/// What came of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// Name of the scenario.
    pub scenario: String,
    /// Passed or failed.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was measured.
    pub call: CallReport,
}

impl ScenarioReport {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

/// Calls `url` with `headers` as `call_id`, goes through `scenario`, and judges. For `wss://`, `tls`
/// says whom to trust.
///
/// The call is logged to `log` as any other: the judge must know smoke calls from customers'.
pub async fn run(
    scenario: &Scenario,
    url: &str,
    headers: &[(String, String)],
    tls: Option<&Arc<ClientConfig>>,
    call_id: &str,
    log: &Arc<CallLog>,
) -> ScenarioReport {
    let within = scenario.turns.iter().map(|turn| turn.within_ms);
    let within = within.chain(scenario.greeting.iter().map(|greeting| greeting.within_ms));
    let plan = CallPlan {
        url: url.to_owned(),
        headers: headers.to_vec(),
        tls: tls.cloned(),
        call_id: call_id.to_owned(),
        greeting: scenario.greeting.clone(),
        turns: scenario.turns.clone(),
        talk_ms: 0,
        connect_timeout_ms: CONNECT_MS_MAX,
        // The first missing voice decides; to wait for the others would only delay the news.
        patience_ms: within.min().unwrap_or(0),
        listen: true,
        say_bye: false,
        seed: 0,
        log: Arc::clone(log),
    };
    let call = caller::call(&plan).await;
    let reasons = reasons(scenario, &call);
    let verdict = match reasons.as_slice() {
        [] => Verdict::Passed,
        _ => Verdict::Failed { reasons },
    };
    ScenarioReport {
        scenario: scenario.name.clone(),
        verdict,
        call,
    }
}

fn reasons(scenario: &Scenario, call: &CallReport) -> Vec<String> {
    let mut reasons = Vec::new();
    match &call.end {
        CallEnd::HungUp | CallEnd::Silent => {}
        CallEnd::Remote { code: Some(code) } => {
            reasons.push(format!("call dropped by the agent, code {code}"));
        }
        CallEnd::Remote { code: None } => {
            reasons.push("call dropped by the agent, without a close".to_owned());
        }
        CallEnd::Refused { status } => {
            reasons.push(format!("call refused with status {status}"));
        }
        CallEnd::Failed { error, .. } => reasons.push(error.clone()),
    }
    if let (Some(wanted), Some(got)) = (&scenario.greeting, &call.greeting) {
        let missing = "after the call connected";
        reasons.extend(unheard("greeting", wanted.within_ms, missing, got));
    }
    for (number, (wanted, got)) in scenario.turns.iter().zip(&call.turns).enumerate() {
        let who = format!("turn {}", number + 1);
        let missing = format!("after {:?}", wanted.say.text());
        reasons.extend(unheard(&who, wanted.within_ms, &missing, got));
    }
    let (done, all) = (call.turns.len(), scenario.turns.len());
    if reasons.is_empty() && done < all {
        reasons.push(format!("only {done} of {all} turns were brought to an end"));
    }
    reasons
}

fn unheard(who: &str, within_ms: u64, missing: &str, got: &TurnReport) -> Option<String> {
    match (got.voice_ms, got.similarity) {
        (None, _) => Some(format!("{who}: no voice within {within_ms} ms {missing}")),
        (Some(_), Some(likeness)) if !got.heard => Some(format!(
            "{who}: heard speech unlike the expected answer: \
             similarity {likeness:.2} < {LIKENESS_MIN}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_scenarios_are_known_by_name() {
        for name in Scenario::BUILTIN {
            assert_eq!(Scenario::builtin(name).unwrap().name, *name);
        }
        assert!(Scenario::builtin("nothing").is_none());
    }

    #[test]
    fn a_scenario_serialises_its_clips_by_name() {
        let json = serde_json::to_value(Scenario::hours()).unwrap();
        assert_eq!(json["turns"][0]["say"], "ask-hours");
        assert_eq!(json["greeting"]["audio"], "greeting");
        assert_eq!(json["profile"], "twilio");
    }
}
