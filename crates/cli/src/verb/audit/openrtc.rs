//! Names of OpenRTC's audit events, for those of our decisions that they mean.
//!
//! OpenRTC's are looser: one of its events may be one of several decisions here, and most decisions
//! have no name there.

use segue_core::audit::Entry;
use segue_core::rollout::FACT_NAMES;

use crate::exit::{Exit, Trouble};

/// OpenRTC's name, the decision, and when it is meant.
const NAMES: &[(&str, &str)] = &[
    ("deployment.started", "deployed"),
    ("deployment.completed", "landed"),
    ("deployment.rolled_back", "rolled_back"),
    // A release stops taking new calls: on its own, for the next one, or for the one before.
    ("deployment.drain_started", "drain_started"),
    ("deployment.drain_started", "cut_over"),
    ("deployment.drain_started", "rollback_started"),
    ("worker.rejected", "worker_rejected"),
];

/// The name of a decision, as it is journaled.
pub(super) fn fact(entry: &Entry) -> &str {
    entry.fact["fact"].as_str().unwrap_or("unknown")
}

/// What OpenRTC calls it, if it does.
pub(super) fn name(entry: &Entry) -> Option<&'static str> {
    let fact = fact(entry);
    // The first release of all displaces none.
    if fact == "cut_over" && entry.inputs["rollout"]["outgoing"].is_null() {
        return None;
    }
    let mut names = NAMES.iter().filter(|(_, ours)| *ours == fact);
    names.next().map(|(theirs, _)| *theirs)
}

/// Which entries are wanted.
#[derive(Debug)]
pub(super) struct Filter(Vec<String>);

impl Filter {
    /// Those of these names, ours or OpenRTC's; all, if there are none.
    pub(super) fn new(names: &[String]) -> Result<Self, Trouble> {
        let is_known = |name: &str| {
            FACT_NAMES.contains(&name)
                || NAMES
                    .iter()
                    .any(|(theirs, ours)| [*theirs, *ours].contains(&name))
        };
        if let Some(name) = names.iter().find(|name| !is_known(name)) {
            let mut theirs: Vec<&str> = NAMES.iter().map(|(theirs, _)| *theirs).collect();
            theirs.dedup();
            let hint = format!(
                "names are {}; or {}",
                FACT_NAMES.join(", "),
                theirs.join(", ")
            );
            let message = format!("no decision is called {name}");
            return Err(Trouble::new(Exit::Usage, message, &hint));
        }
        Ok(Self(names.to_vec()))
    }

    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let is = |wanted: &String| *wanted == fact(entry) || Some(wanted.as_str()) == name(entry);
        self.0.is_empty() || self.0.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use segue_core::time::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn check(fact: &str, inputs: Value, expected: Option<&str>) {
        let (agent, actor) = ("desk".parse().unwrap(), "segue".to_owned());
        let fact = json!({ "fact": fact });
        let entry = Entry::after((0, ""), Timestamp(1), agent, actor, fact, inputs);
        assert_eq!(name(&entry), expected, "{entry:?}");
        let takes = |name: &str| Filter::new(&[name.to_owned()]).unwrap().takes(&entry);
        assert_eq!(
            takes("deployment.drain_started"),
            expected == Some("deployment.drain_started")
        );
        assert!(Filter::new(&[]).unwrap().takes(&entry));
    }

    #[test]
    fn decisions_have_the_names_that_openrtc_knows() {
        check("deployed", Value::Null, Some("deployment.started"));
        check("landed", Value::Null, Some("deployment.completed"));
        check("rolled_back", Value::Null, Some("deployment.rolled_back"));
        check(
            "drain_started",
            Value::Null,
            Some("deployment.drain_started"),
        );
        check(
            "rollback_started",
            Value::Null,
            Some("deployment.drain_started"),
        );
        let outgoing = json!({ "rollout": { "outgoing": "v1" } });
        check("cut_over", outgoing, Some("deployment.drain_started"));
        check("cut_over", json!({ "rollout": { "outgoing": null } }), None);
        check("paused", Value::Null, None);
    }

    #[test]
    fn a_name_that_nobody_knows_is_refused_with_those_that_are_known() {
        let refused = Filter::new(&["deployment.begun".to_owned()]).unwrap_err();
        assert!(refused.hint.unwrap().contains("deployment.started"));
    }
}
