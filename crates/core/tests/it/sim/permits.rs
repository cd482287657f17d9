//! Outbound calls: a permit is asked for before the call, and counts until it ends.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::names::ReleaseId;

use super::platform::Life;
use super::world::{Next, World};

impl World {
    /// Somebody asks a controller for a permit, mostly for the current release.
    pub(crate) fn dial(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let next = self.rng.between(500, 9_000);
        self.after(next, Next::Dial);
        let Some(controller) = &self.active else {
            return;
        };
        let current = controller.agent.current();
        let wanted = current.filter(|_| self.rng.chance(800));
        let release = wanted.unwrap_or_else(|| self.rng.pick(&self.scenario.releases).id);
        let Some(controller) = &self.active else {
            return;
        };
        // Whoever was replaced cannot write permits down, so it grants none.
        let takes = controller
            .agent
            .releases
            .get(&release)
            .is_some_and(|record| record.state.takes_new_calls());
        if !takes || !self.is_up_to_date(controller) {
            self.coverage.hit("way", "permit refused");
            return;
        }
        self.coverage.hit("way", "permit granted");
        self.calls_made += 1;
        let permit = self.calls_made;
        self.permits.insert(permit, release);
        let length = self.rng.heavy(self.scenario.length.0 * 2, 60_000);
        self.after(length, Next::PermitEnds(permit));
    }

    pub(crate) fn permits_by_release(&self) -> BTreeMap<ReleaseId, u64> {
        let mut counts = BTreeMap::new();
        for release in self.permits.values() {
            *counts.entry(*release).or_default() += 1;
        }
        counts
    }

    /// Releases of which a process lives.
    pub(crate) fn processes(&self) -> BTreeSet<ReleaseId> {
        let workers = self.platform.workers.values();
        workers
            .filter(|worker| worker.life != Life::Gone)
            .map(|worker| worker.release)
            .collect()
    }

    /// I8: a release with permits out is not empty.
    pub(crate) fn i8_permits_count(&mut self, release: ReleaseId) {
        let out = self.permits.values().filter(|of| **of == release).count();
        if out > 0 && !self.woken {
            let text = format!("{out} permits of {} are out", self.label(release));
            self.violate("i8_permits_count", text);
        }
    }
}
