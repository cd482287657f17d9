//! Why workers do not get ready, beside the count of those that do not: without it an operator sees
//! a rollout that waits or has failed, and has to guess whose log to read.

use segue_core::names::{AgentName, ReleaseId};
use segue_core::rollout::{Agent, Phase};

use super::{Driver, Holding};
use crate::platform::{WorkerState, WorkerStatus};

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
        if let Some(what) = trouble(&holding.agent, rollout.incoming, &workers) {
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
    let restarts = match worst.restarts {
        0 => String::new(),
        1 => ", 1 restart".to_owned(),
        more => format!(", {more} restarts"),
    };
    let what = match (&worst.ended, &worst.health_path) {
        (Some(ended), _) => ended.clone(),
        (None, Some(path)) => format!("it does not answer GET {path} with 200 yet"),
        (None, None) => "it does not listen on its port yet".to_owned(),
    };
    let label = agent.label(release);
    let worker = &worst.worker;
    Some(format!(
        "{worker}: {what}{restarts}; see `segue logs {label}`"
    ))
}
