//! Configurations that are valid and will hurt: each with what to write instead.

use segue_core::spec::{AgentSpec, Spec, StragglerPolicy};
use segue_core::time::Millis;

use super::{Findings, Patient};

/// A drain that is believed after less than this is believed before a caller has dialled again.
const STICKINESS_MIN: Millis = Millis(10_000);

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("config");
    let Some(spec) = &patient.spec else {
        return found;
    };
    listeners(spec, &mut found);
    for (name, agent) in &spec.agents {
        let before = found.all.len();
        gates(name.as_str(), agent, &mut found);
        windows(name.as_str(), agent, &mut found);
        others(name.as_str(), agent, &mut found);
        if found.all.len() == before {
            found.ok(format!("{name}: nothing that will hurt"));
        }
    }
    found
}

fn listeners(spec: &Spec, found: &mut Findings) {
    if !spec.api.listen.ip().is_loopback() {
        found.warn(
            format!(
                "the admin API listens on {}, beyond this machine",
                spec.api.listen
            ),
            "keep it on loopback and go there by SSH, or see that a firewall is in front",
        );
    }
    if !spec.gateway.listen.ip().is_loopback() && spec.gateway.tls.is_none() {
        found.warn(
            format!(
                "calls come in on {} without TLS: others can listen",
                spec.gateway.listen
            ),
            "write tls = { cert = …, key = … } below [gateway], or put a TLS proxy in front",
        );
    }
    if let Some((what, fix)) = strangers(spec) {
        found.warn(what, fix);
    }
}

/// Whether anybody may register as a LiveKit worker, and what to do about it.
pub(crate) fn strangers(spec: &Spec) -> Option<(String, &'static str)> {
    let livekit = spec.livekit.as_ref().filter(|is| is.believes_strangers())?;
    let what = format!(
        "LiveKit workers come in on {} and are believed without a token: whoever reaches it is given \
         calls",
        livekit.listen
    );
    let fix = "write environment, keys and manifest below [livekit] instead of unsigned, or listen \
               on loopback";
    Some((what, fix))
}

/// What a new release must pass.
fn gates(name: &str, agent: &AgentSpec, found: &mut Findings) {
    let plan = &agent.plan;
    if plan.smoke.is_none() {
        found.warn(
            format!("{name}: no smoke gate: the first call to a new release is a caller's"),
            format!("write [agents.{name}.smoke] with scenario = \"hours\", or one of your own"),
        );
    }
    if plan.steps.is_empty() {
        found.warn(
            format!("{name}: no steps: a new release takes all new calls at once"),
            format!(
                "write [[agents.{name}.steps]] with share = \"10%\", min_calls and min_duration"
            ),
        );
    } else if plan
        .steps
        .iter()
        .all(|step| step.min_calls == 0 && !step.pause)
    {
        found.warn(
            format!("{name}: no step asks for calls: at night a release may ramp without one"),
            "write min_calls beside min_duration",
        );
    }
    if agent.worker.health_path.is_none() {
        found.warn(
            format!("{name}: no `health`: a worker counts as ready once it accepts a connection"),
            "write health = \"/healthz\", a path that answers 200 once models are loaded",
        );
    }
}

/// How long things are kept.
fn windows(name: &str, agent: &AgentSpec, found: &mut Findings) {
    let (policy, plan) = (&agent.policy, &agent.plan);
    let age = |length: Millis| length.to_string();
    if policy.standby < plan.bake {
        found.warn(
            format!(
                "{name}: standby {} is shorter than bake {}: after the bake nothing may be left \
                 to roll back to",
                age(policy.standby),
                age(plan.bake)
            ),
            format!("write standby = \"{}s\" or longer", plan.bake.0 / 1_000),
        );
    }
    if policy.standby == Millis(0) {
        found.warn(
            format!("{name}: standby 0: a drained release cannot be rolled back to"),
            "write standby = \"30m\"",
        );
    }
    if policy.stickiness < STICKINESS_MIN {
        found.warn(
            format!(
                "{name}: stickiness {}: a caller who dials again is sent to any release",
                age(policy.stickiness)
            ),
            "write stickiness = \"5m\"; not longer than the longest call",
        );
    }
    if policy.stragglers.policy == StragglerPolicy::End {
        let after = policy.stragglers.ceiling.map_or(String::new(), age);
        found.warn(
            format!("{name}: stragglers: live calls are ended {after} into a drain"),
            "write policy = \"announce\" or \"hand-off\", unless ending callers is what you want",
        );
    }
    if policy.max_tails == 0 {
        found.warn(
            format!("{name}: max_tails 0: a third deploy is refused while an old release drains"),
            "write max_tails = 3, if the machine has room for the workers",
        );
    }
}

/// What does not fit the rest.
fn others(name: &str, agent: &AgentSpec, found: &mut Findings) {
    if agent.worker.count == 1 {
        found.warn(
            format!("{name}: one worker: when it dies, new calls are refused until it is back"),
            "write workers = 2 or more",
        );
    }
    if agent.plan.hooks.after_retire.is_some() && agent.plan.hooks.before_deploy.is_none() {
        found.warn(
            format!("{name}: a contract hook without an expand hook"),
            "write hooks.before_deploy, or say in a comment who expands",
        );
    }
    for webhook in &agent.plan.webhooks {
        if webhook.to.url.starts_with("http://") && webhook.to.secret_file.is_none() {
            found.warn(
                format!(
                    "{name}: webhook {}: neither encrypted nor signed",
                    webhook.name
                ),
                "write an https URL, or a secret_file",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    /// What is said of an agent with these settings.
    fn smells(settings: &str) -> Vec<String> {
        let text = format!(
            "[agents.desk]\ncommand = [\"bot\", \"{{port}}\"]\nworkers = 2\nhealth = \"/ok\"\n{settings}"
        );
        let spec = segue_core::spec::parse("segue.toml", &text).unwrap();
        let mut found = Findings::of("config");
        listeners(&spec, &mut found);
        for (name, agent) in &spec.agents {
            gates(name.as_str(), agent, &mut found);
            windows(name.as_str(), agent, &mut found);
            others(name.as_str(), agent, &mut found);
        }
        assert!(found.all.iter().all(|one| one.level == Level::Warn));
        assert!(found.all.iter().all(|one| one.fix.is_some()));
        found.all.into_iter().map(|one| one.what).collect()
    }

    const GOOD: &str = "\n[agents.desk.smoke]\nscenario = \"hours\"\n\
                        [[agents.desk.steps]]\nshare = \"10%\"\nmin_calls = 5\n";

    #[test]
    fn what_will_hurt_is_said_and_what_will_not_is_not() {
        assert_eq!(smells(GOOD), Vec::<String>::new());
        let check = |settings: &str, expected: &str| {
            let said = smells(settings);
            assert!(
                said.iter().any(|what| what.contains(expected)),
                "{expected}: {said:?}"
            );
        };
        check("", "no smoke gate");
        check("", "no steps");
        check(&format!("standby = \"0s\"\n{GOOD}"), "standby 0");
        check(&format!("stickiness = \"1s\"\n{GOOD}"), "stickiness 1s");
        check(&format!("max_tails = 0\n{GOOD}"), "max_tails 0");
        let hasty = "\n[[agents.desk.steps]]\nshare = \"10%\"\nmin_duration = \"1s\"\n";
        check(hasty, "no step asks for calls");
        check("\n[gateway]\nlisten = \"0.0.0.0:80\"\n", "without TLS");
        let livekit = |more: &str| {
            format!(
                "{GOOD}[agents.desk.livekit]\nname = \"desk\"\n[livekit]\nurl = \"wss://a\"\n\
                 api_key = \"k\"\nsecret_file = \"s\"\n{more}"
            )
        };
        let open = "listen = \"0.0.0.0:7080\"\n";
        let signed = "environment = \"test\"\nkeys = \"k\"\nmanifest = \"m\"\n";
        check(
            &livekit(&format!("unsigned = true\n{open}")),
            "without a token",
        );
        for good in ["unsigned = true\n".to_owned(), format!("{signed}{open}")] {
            assert_eq!(smells(&livekit(&good)), Vec::<String>::new());
        }
    }
}
