//! A gateway in this process with two releases behind it.

use segue_core::names::ReleaseId;
use segue_core::presence::ReleaseCounts;
use segue_core::table::RoutingTable;
use segue_gateway::Config;

use super::Dir;
use super::agent::{Agent, Manner};
use super::controller::Controller;
use super::gateway::{Gateway, config};
use super::table::table;

pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) controller: Controller,
    pub(crate) v1: Agent,
    pub(crate) v2: Agent,
    pub(crate) dir: Dir,
}

impl Rig {
    /// Epoch 1: all new calls to `v1`.
    pub(crate) async fn start(v1: Manner, v2: Manner) -> Self {
        Self::start_with(v1, v2, |_| ()).await
    }

    pub(crate) async fn start_with(
        v1: Manner,
        v2: Manner,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = Dir::new();
        let (v1, v2) = (Agent::start(v1).await, Agent::start(v2).await);
        let workers = [("w1", "v1", v1.addr), ("w2", "v2", v2.addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let mut config = config(dir.path());
        adjust(&mut config);
        let gateway = Gateway::start(config).await;
        controller
            .report("the first table", |report| report.epoch.0 == 1)
            .await;
        Self {
            gateway,
            controller,
            v1,
            v2,
            dir,
        }
    }

    pub(crate) fn table(&self, epoch: u64, serving: &str) -> RoutingTable {
        let workers = [("w1", "v1", self.v1.addr), ("w2", "v2", self.v2.addr)];
        table(epoch, serving, &workers)
    }

    /// Waits for a report with counts as wished.
    pub(crate) async fn counts(
        &mut self,
        release: ReleaseId,
        wished: impl Fn(&ReleaseCounts) -> bool,
    ) -> ReleaseCounts {
        let report = self.controller.report("counts as wished", |report| {
            report.releases.get(&release).is_some_and(&wished)
        });
        report.await.releases[&release].clone()
    }
}
