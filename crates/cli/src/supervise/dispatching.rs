//! The dispatcher beside the gateway, if jobs of LiveKit are given out here.
//!
//! It may end at any time and takes nothing along: jobs run in their workers, and the next one knows
//! them. So it is kept like the controller, and nothing ever waits for it but the end of everything.

use std::path::Path;
use std::time::Duration;

use super::binary::is_ours;
use super::child::{Child, Program};
use super::door::Door;
use crate::home::Home;
use crate::output;
use crate::verb::process::configuration;

/// Whether there is one.
pub(super) struct Dispatching(Option<Child>);

impl Dispatching {
    /// Finds it or starts it, if the configuration has it. One of an earlier binary is replaced.
    pub(super) async fn find_or_start(home: &Home, config: &Path) -> anyhow::Result<Self> {
        let is_wanted = configuration(config)?.livekit.is_some();
        let program = Program::dispatcher(Some(Door::default()));
        let Some(found) = Child::find(home, program.clone())? else {
            let start = || Child::find_or_start(home, config, program);
            return Ok(Self(is_wanted.then(start).transpose()?));
        };
        if !is_wanted {
            output::say(
                "warning: a dispatcher runs, but segue.toml has no [livekit]; it ends with its last job",
            );
            found.end();
            return Ok(Self(None));
        }
        if is_ours(found.pid()) {
            return Ok(Self(Some(found)));
        }
        // Killed, not asked: that would wait for its jobs, which are the next one's.
        found.stop(Duration::ZERO).await;
        Ok(Self(Some(Child::find_or_start(home, config, program)?)))
    }

    /// The one that runs, for whoever ends everything.
    pub(super) fn find(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(Child::find(home, Program::dispatcher(None))?))
    }

    pub(super) fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(Child::is_running)
    }

    /// Starts it again when it ends; waits for ever without one.
    pub(super) async fn keep(&mut self, home: &Home, config: &Path) {
        match &mut self.0 {
            Some(child) => {
                child.keep(home, config).await;
            }
            None => std::future::pending().await,
        }
    }

    /// It takes no further job.
    pub(super) fn end(&self) {
        if let Some(child) = self.0.as_ref().filter(|child| child.is_running()) {
            child.end();
        }
    }

    /// Waits for its end, which comes after that of its last job. `false`: it died, or had died, with
    /// jobs that go on.
    pub(super) async fn ended(&self, home: &Home) -> bool {
        if let Some(child) = &self.0 {
            child.exited().await;
        }
        // What cannot be read may hold a job.
        segue_dispatch::jobs_left(home.path()).is_ok_and(|jobs| jobs == 0)
    }
}
