//! Why workers do not get ready, beside the count of those that do not: without it an operator sees
//! a rollout that waits or has failed, and has to guess whose log to read.

use segue_core::names::{AgentName, ReleaseId};
use segue_core::rollout::{Agent, Phase};

use super::{Driver, Holding};
use crate::platform::{ComponentStatus, WorkerState, WorkerStatus};

/// What core says of a rollout that failed because of its workers.
const NOT_READY: &str = "workers ready after";

/// What is wrong with the workers of a rollout. Remembered: once it has failed its release is
/// retired soon, and its workers are not spoken of any more.
#[derive(Debug)]
pub(super) struct Trouble {
    rollout: u64,
    what: String,
}

impl Driver {
    /// Looks at the workers that are waited for.
    pub(super) fn note_trouble(&mut self, name: &AgentName) {
        let Some(holding) = self.agents.get_mut(name) else {
            return;
        };
        let rollout = holding.agent.rollout.as_ref();
        let waits = |phase: &Phase| matches!(phase, Phase::Provisioning { .. });
        let Some(rollout) = rollout.filter(|rollout| waits(&rollout.phase)) else {
            return;
        };
        let workers = self.parts.platform.workers(name);
        let components = self.parts.platform.components(name);
        let of_component = of_component(&holding.agent, rollout.incoming, &components);
        let of_worker = || trouble(&holding.agent, rollout.incoming, &workers);
        if let Some(what) = of_component.or_else(of_worker) {
            let rollout = rollout.id;
            holding.trouble = Some(Trouble { rollout, what });
        }
    }
}

impl Holding {
    /// What is said of its last rollout, with what is wrong with the workers.
    pub(super) fn with_trouble(&self, said: String) -> String {
        let rollout = self.agent.rollout.as_ref();
        let of_this = |trouble: &&Trouble| rollout.is_some_and(|is| is.id == trouble.rollout);
        match self.trouble.as_ref().filter(of_this) {
            Some(trouble) => format!("{said}; {}", trouble.what),
            None => said,
        }
    }

    /// Why its last rollout failed or was rolled back.
    pub(super) fn reason(&self, reason: &str) -> String {
        if reason.contains(NOT_READY) {
            return self.with_trouble(reason.to_owned());
        }
        reason.to_owned()
    }
}

/// The worker that ended most often speaks for the others.
fn trouble(agent: &Agent, release: ReleaseId, workers: &[WorkerStatus]) -> Option<String> {
    let waits = |is: &&WorkerStatus| is.release == release && is.state != WorkerState::Ready;
    let worst = workers
        .iter()
        .filter(waits)
        .max_by_key(|is| (is.ended.is_some(), is.restarts))?;
    let restarts = times(worst.restarts);
    let what = said(worst.ended.as_ref(), worst.health_path.as_ref());
    let label = agent.label(release);
    let worker = &worst.worker;
    Some(format!(
        "{worker}: {what}{restarts}; see `segue logs {label}`"
    ))
}

/// Workers wait for components, so one of those speaks first; of them the one that waits for no
/// other.
fn of_component(
    agent: &Agent,
    release: ReleaseId,
    components: &[ComponentStatus],
) -> Option<String> {
    let waits = |is: &&ComponentStatus| {
        is.release == release
            && is.state != WorkerState::Ready
            && (is.pid.is_some() || is.ended.is_some())
    };
    let worst = components
        .iter()
        .filter(waits)
        .max_by_key(|is| (is.ended.is_some(), is.restarts))?;
    let restarts = times(worst.restarts);
    let what = said(worst.ended.as_ref(), worst.health_path.as_ref());
    let (label, component) = (agent.label(release), &worst.component);
    Some(format!(
        "component {component}: {what}{restarts}; see `segue logs {label}`"
    ))
}

fn times(restarts: u32) -> String {
    match restarts {
        0 => String::new(),
        1 => ", 1 restart".to_owned(),
        more => format!(", {more} restarts"),
    }
}

fn said(ended: Option<&String>, health_path: Option<&String>) -> String {
    match (ended, health_path) {
        (Some(ended), _) => ended.clone(),
        (None, Some(path)) => format!("it does not answer GET {path} with 200 yet"),
        (None, None) => "it does not listen on its port yet".to_owned(),
    }
}
