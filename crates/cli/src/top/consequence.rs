//! What a verb will do to calls, said before it is done.

use segue_controller::api::wire::{AgentView, ReleaseView};
use segue_core::names::Label;

use super::state::Verb;
use crate::output;

/// What will happen. As an error: why there is nothing to ask for.
pub(super) fn of(verb: Verb, agent: &AgentView) -> Result<String, String> {
    match verb {
        Verb::Rollback => rollback(agent),
        Verb::Pause | Verb::Resume | Verb::Promote | Verb::Abort => {
            let Some(rollout) = agent.rollout.as_ref().filter(|_| is_under_way(agent)) else {
                return Err(format!(
                    "nothing to {}: the rollout is {}",
                    verb.word(),
                    agent.phase
                ));
            };
            let incoming = &rollout.incoming;
            let share = output::percent(share(agent, incoming.as_str()));
            match verb {
                Verb::Pause if rollout.paused => Err("the rollout is paused already".to_owned()),
                Verb::Resume if !rollout.paused => Err("the rollout is not paused".to_owned()),
                Verb::Pause => Ok(format!(
                    "The rollout waits, {incoming} at {share} of new calls, until somebody resumes \
                     it. Too many drops still roll it back."
                )),
                Verb::Resume => Ok(format!(
                    "The rollout goes on by itself from {incoming} at {share} of new calls."
                )),
                Verb::Abort => Ok(format!(
                    "{incoming} is withdrawn: new calls go to {} as before. {}",
                    current(agent).unwrap_or("nobody"),
                    stay(agent, incoming.as_str())
                )),
                _ => Ok(promote(agent, incoming.as_str())),
            }
        }
    }
}

fn promote(agent: &AgentView, incoming: &str) -> String {
    let rollout = agent.rollout.as_ref();
    let next = rollout.and_then(|rollout| {
        let next = rollout.step.map_or(0, |step| step + 1);
        rollout.steps.get(next)
    });
    let before = current(agent).filter(|current| *current != incoming);
    match (next, before) {
        (Some(step), _) => format!("{incoming} takes {} of new calls.", step.share),
        (None, Some(before)) => format!("{incoming} takes all new calls. {}", stay(agent, before)),
        (None, None) => format!("{incoming} takes all new calls."),
    }
}

fn rollback(agent: &AgentView) -> Result<String, String> {
    let ramping = label_in(agent, "ramping");
    let (from, to) = match (ramping, current(agent)) {
        (Some(ramping), Some(current)) => (ramping, Some(current)),
        (_, Some(current)) => (current, before(agent)),
        (_, None) => return Err("no release takes calls".to_owned()),
    };
    match to {
        Some(to) => Ok(format!(
            "Every new call goes to {to} again, at once. {}",
            stay(agent, from)
        )),
        None => Err("no earlier release is running to roll back to".to_owned()),
    }
}

/// What becomes of the calls that a release has.
fn stay(agent: &AgentView, label: &str) -> String {
    let live = agent
        .releases
        .iter()
        .find(|release| release.label.as_str() == label)
        .map_or(0, |release| release.live);
    match live {
        0 => format!("{label} has no live calls."),
        1 => format!("The live call on {label} stays there and ends by itself."),
        live => format!("The {live} live calls on {label} stay there and end by themselves."),
    }
}

/// The release that a rollback from the current one goes to, as far as can be seen from here.
fn before(agent: &AgentView) -> Option<&str> {
    let runs = |release: &&ReleaseView| matches!(release.state.as_str(), "draining" | "drained");
    let rollout = agent.rollout.as_ref();
    let outgoing = rollout.and_then(|rollout| rollout.outgoing.as_ref());
    let sides = [outgoing, rollout.map(|rollout| &rollout.incoming)];
    let known = sides
        .into_iter()
        .flatten()
        .map(Label::as_str)
        .find(|label| {
            let mut running = agent.releases.iter().filter(runs);
            running.any(|release| release.label.as_str() == *label)
        });
    known.or_else(|| agent.releases.iter().find(runs).map(|is| is.label.as_str()))
}

/// Whether there is a rollout that has not ended.
fn is_under_way(agent: &AgentView) -> bool {
    matches!(
        agent.phase.as_str(),
        "provisioning" | "verifying" | "canary" | "promoting"
    )
}

fn share(agent: &AgentView, label: &str) -> u16 {
    let of = |release: &&ReleaseView| release.label.as_str() == label;
    agent.releases.iter().find(of).map_or(0, |is| is.share_bp)
}

fn current(agent: &AgentView) -> Option<&str> {
    label_in(agent, "current")
}

fn label_in<'a>(agent: &'a AgentView, state: &str) -> Option<&'a str> {
    let of = agent.releases.iter().find(|release| release.state == state);
    of.map(|release| release.label.as_str())
}
