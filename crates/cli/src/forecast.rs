//! What a deploy would do: from the configuration, and from what runs.
//!
//! Nothing here decides. It says in which order the machine in core would take its steps, and what
//! each waits for, so that nobody has to find out under live calls.

mod steps;

use segue_controller::api::wire::{AgentView, DeployBody};
use segue_core::names::AgentName;
use segue_core::spec::AgentSpec;
use segue_core::time::Millis;
use serde::Serialize;

use crate::output;

/// What would be deployed.
pub(crate) struct Wish<'a> {
    pub(crate) label: Option<&'a str>,
    pub(crate) workers: u32,
    pub(crate) capacity: u32,
    /// Its program, if it is not the configured one.
    pub(crate) command: &'a [String],
    /// What else is given.
    pub(crate) body: &'a DeployBody,
    /// Whether a release that served well skips the ramp and the approval.
    pub(crate) fast_track: bool,
}

/// What runs, as far as it can be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Running<'a> {
    /// No Segue, with this state folder.
    Nothing,
    /// One that does not know the agent.
    Another,
    /// One that does.
    Agent(&'a AgentView),
}

/// What would happen.
#[derive(Debug, Serialize)]
pub(crate) struct Forecast {
    agent: String,
    /// What would be deployed, if it has a name yet.
    release: Option<String>,
    /// The release that takes new calls now.
    current: Option<String>,
    /// Calls in progress; `None`: no Segue runs here.
    live: Option<u64>,
    /// Calls that the new release could hold.
    room: u64,
    /// How long it takes at least until it has all new calls, beside starting and gates.
    ramp_ms: u64,
    steps: Vec<Step>,
    /// What would stop it, or make it riskier than it has to be.
    missing: Vec<Missing>,
}

/// One step.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// Phase of the rollout, as in `segue status`.
    phase: &'static str,
    what: String,
    /// What it waits for, and what becomes of the rollout if that does not come.
    until: Option<String>,
}

/// Something that is missing.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Missing {
    /// Whether the deploy is refused, fails or holds because of it.
    blocks: bool,
    what: String,
    fix: String,
}

impl Forecast {
    pub(crate) fn of(
        name: &AgentName,
        spec: &AgentSpec,
        wish: &Wish<'_>,
        running: Running<'_>,
    ) -> Self {
        let seen = match running {
            Running::Agent(agent) => Some(agent),
            Running::Nothing | Running::Another => None,
        };
        let current = seen.and_then(|agent| {
            let is = agent.releases.iter().find(|is| is.state == "current");
            is.map(|release| release.label.to_string())
        });
        let ramp = spec.plan.steps.iter().map(|step| step.min_duration.0);
        let mut forecast = Self {
            agent: name.to_string(),
            release: wish.label.map(str::to_owned),
            current,
            live: seen.map(|agent| agent.live),
            room: u64::from(wish.workers) * u64::from(wish.capacity),
            ramp_ms: ramp.sum(),
            steps: Vec::new(),
            missing: Vec::new(),
        };
        forecast.steps = steps::of(&forecast, spec, wish, seen);
        forecast.missing = forecast.missing(spec, wish, running);
        forecast
    }

    fn missing(&self, spec: &AgentSpec, wish: &Wish<'_>, running: Running<'_>) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut lacks = |blocks: bool, what: String, fix: String| {
            missing.push(Missing { blocks, what, fix });
        };
        match running {
            Running::Nothing => lacks(
                true,
                "no Segue runs with this state folder".to_owned(),
                "start it with `segue serve`".to_owned(),
            ),
            Running::Another => lacks(
                true,
                format!("the running Segue does not know {}", self.agent),
                "it was started with another segue.toml: `segue stop`, then `segue serve`"
                    .to_owned(),
            ),
            Running::Agent(agent) => self.in_the_way(agent, spec, wish, &mut lacks),
        }
        if spec.worker.command.is_empty() && wish.command.is_empty() {
            lacks(
                false,
                "segue.toml has no `command`".to_owned(),
                "give one with the deploy: `segue deploy LABEL -- COMMAND`".to_owned(),
            );
        }
        if spec.plan.smoke.is_none() {
            lacks(
                false,
                "no smoke gate: the first call to it would be a caller's".to_owned(),
                format!(
                    "write [agents.{}.smoke] with scenario = \"hours\"",
                    self.agent
                ),
            );
        }
        if spec.plan.steps.is_empty() {
            lacks(
                false,
                "no steps: it would take all new calls at once".to_owned(),
                format!("write [[agents.{}.steps]] with share = \"10%\"", self.agent),
            );
        }
        missing
    }

    /// What runs and is in the way.
    fn in_the_way(
        &self,
        agent: &AgentView,
        spec: &AgentSpec,
        wish: &Wish<'_>,
        lacks: &mut impl FnMut(bool, String, String),
    ) {
        if let Some(rollout) = agent.rollout.as_ref().filter(|_| is_busy(agent)) {
            lacks(
                true,
                format!("{} is being rolled out ({})", rollout.incoming, agent.phase),
                "wait for it, or end it with `segue abort`".to_owned(),
            );
        }
        let tails = steps::tails(agent);
        let most = usize::try_from(spec.policy.max_tails).unwrap_or(usize::MAX);
        if tails >= most && steps::displaced(agent).is_some_and(|is| is.live > 0) {
            lacks(
                true,
                format!("{tails} releases drain beside the two slots, the most allowed"),
                "wait until one has drained, or raise `max_tails`".to_owned(),
            );
        }
        if self.room < agent.live.max(1) {
            let fix = agent.live.div_ceil(u64::from(wish.capacity.max(1)));
            lacks(
                true,
                format!(
                    "no room: it holds {} calls, and {} are in progress; the cutover would hold",
                    self.room, agent.live
                ),
                format!("deploy with --workers {fix}, or wait for calls to end"),
            );
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let what = self.release.as_deref().unwrap_or("the next release");
        let now = match (&self.current, self.live) {
            (Some(current), Some(live)) => format!("{current} is current, {live} live calls"),
            (None, Some(live)) => format!("nothing takes calls, {live} live calls"),
            (_, None) => "from the configuration alone".to_owned(),
        };
        let mut lines = vec![format!("deploy of {what} to {}: {now}", self.agent)];
        for (number, step) in self.steps.iter().enumerate() {
            lines.push(format!(
                "{:3}. {:<12}  {}",
                number + 1,
                step.phase,
                step.what
            ));
            if let Some(until) = &step.until {
                lines.push(format!("{:19}{until}", ""));
            }
        }
        if self.ramp_ms > 0 && self.steps.iter().any(|step| step.phase == "canary") {
            let ramp = output::age(self.ramp_ms);
            lines.push(format!(
                "at least {ramp} of ramp before it has all new calls"
            ));
        }
        for missing in &self.missing {
            let word = if missing.blocks { "BLOCKED" } else { "missing" };
            lines.push(format!("{word}: {}", missing.what));
            lines.push(format!("    fix: {}", missing.fix));
        }
        lines.join("\n")
    }
}

/// Whether a rollout is under way that refuses another one.
fn is_busy(agent: &AgentView) -> bool {
    matches!(
        agent.phase.as_str(),
        "provisioning" | "verifying" | "canary" | "promoting" | "rolling back"
    )
}

fn age(length: Millis) -> String {
    length.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
[agents.desk]
command = ["bot", "{port}"]
health = "/ok"
workers = 2
capacity = 10
[agents.desk.smoke]
scenario = "hours"
[[agents.desk.steps]]
share = "10%"
min_calls = 20
min_duration = "2m"
[[agents.desk.steps]]
share = "50%"
pause = true
"#;

    fn live(phase: &str, live: u64) -> AgentView {
        let release = |label: &str, slot: &str, state: &str, live: u64| {
            serde_json::json!({
                "id": label[1..].repeat(64), "label": label, "slot": slot, "state": state,
                "share_bp": 0, "live_share_bp": 0, "live": live, "pinned": 0, "unknown": [],
                "workers_ready": 1, "workers_want": 1, "capacity": 1, "started": 0, "ended": 0,
                "dropped": 0, "errors": 0, "closes": {}, "workers": [],
            })
        };
        let view = serde_json::json!({
            "name": "desk", "revision": 1, "epoch": 1, "phase": phase, "holds": [], "live": live,
            "releases": [release("v2", "green", "current", live), release("v1", "blue", "draining", 3)],
            "rollout": {
                "id": 2, "incoming": "v2", "incoming_id": "2".repeat(64), "outgoing": "v1",
                "step": null, "steps": [], "paused": false, "reason": null, "unacked": [],
                "started": 0,
            },
        });
        serde_json::from_value(view).unwrap()
    }

    fn forecast(text: &str, running: Running<'_>) -> Forecast {
        let spec = segue_core::spec::parse("segue.toml", text).unwrap();
        let (name, agent) = spec.agents.iter().next().unwrap();
        let wish = Wish {
            label: Some("v3"),
            workers: agent.worker.count,
            capacity: agent.worker.capacity,
            command: &[],
            body: &DeployBody {
                model: Some("large".to_owned()),
                ..DeployBody::default()
            },
            fast_track: true,
        };
        Forecast::of(name, agent, &wish, running)
    }

    #[test]
    fn every_step_is_told_in_order() {
        let agent = live("draining", 12);
        let forecast = forecast(FULL, Running::Agent(&agent));
        let phases: Vec<&str> = forecast.steps.iter().map(|step| step.phase).collect();
        assert_eq!(
            phases,
            [
                "made",
                "slot",
                "provisioning",
                "verifying",
                "canary",
                "canary",
                "promoting",
                "draining",
                "settling",
                "standby",
                "retired"
            ]
        );
        assert_eq!(forecast.missing, []);
        assert_eq!(forecast.ramp_ms, 120_000);
        let text = forecast.text();
        for said in [
            "v2 (the current release), with model large",
            "v2 is current, 12 live calls",
            "slot blue",
            "v1 leaves it and finishes its 3 calls",
            "10 % of new calls",
            "20 calls ended and 2m passed",
            "waits for `segue promote`",
            "v2's 12 calls end by themselves",
        ] {
            assert!(text.contains(said), "{said:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_missing_is_said_and_what_blocks_too() {
        let blocked = |forecast: &Forecast, expected: &str| {
            let found = forecast
                .missing
                .iter()
                .find(|is| is.what.contains(expected));
            found
                .unwrap_or_else(|| panic!("{expected}: {:?}", forecast.missing))
                .blocks
        };
        assert!(blocked(&forecast(FULL, Running::Nothing), "no Segue runs"));
        assert!(blocked(
            &forecast(FULL, Running::Another),
            "does not know desk"
        ));
        let busy = live("canary", 1);
        assert!(blocked(
            &forecast(FULL, Running::Agent(&busy)),
            "is being rolled out"
        ));
        let crowded = live("draining", 21);
        let forecast_of = forecast(FULL, Running::Agent(&crowded));
        assert!(blocked(&forecast_of, "no room: it holds 20 calls, and 21"));
        assert!(
            forecast_of.text().contains("--workers 3"),
            "{}",
            forecast_of.text()
        );
        let bare = forecast(
            "[agents.desk]\ncommand = [\"bot\", \"{port}\"]\n",
            Running::Nothing,
        );
        assert!(!blocked(&bare, "no smoke gate"));
        assert!(!blocked(&bare, "no steps"));
    }
}
