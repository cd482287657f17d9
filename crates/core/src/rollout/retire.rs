//! What operators end by hand: a standby, and a gateway that is gone.

use crate::names::{GatewayId, Label, ReleaseId};
use crate::presence::LEASE;
use crate::release::ReleaseState;
use crate::rollout::agent::{Agent, Rollout};
use crate::rollout::event::Input;
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::hold::Hold;
use crate::rollout::illegal::Illegal;
use crate::rollout::seen::{Count, Seen};
use crate::time::{Millis, Timestamp};

impl Agent {
    pub(super) fn retire(
        &self,
        now: Timestamp,
        seen: &Seen,
        release: ReleaseId,
    ) -> Result<Vec<Fact>, Illegal> {
        let label = self.label(release);
        let bake = self.rollout.as_ref().and_then(Rollout::baking);
        if let Some(bake) = bake.filter(|_| self.is_baked_against(release)) {
            let left = bake.until.since(now);
            return Err(Illegal::Baking { label, left });
        }
        match self.releases.get(&release).map(|record| record.state) {
            Some(ReleaseState::Drained { .. }) => match self.count(now, seen, release) {
                Count::Known { live: 0, pinned: 0 } => {
                    Ok(vec![Fact::Retiring { release, at: now }])
                }
                count => Err(Illegal::StillHolds {
                    label,
                    count: describe(&count),
                }),
            },
            Some(ReleaseState::Retiring { .. } | ReleaseState::Retired { .. }) => Ok(Vec::new()),
            Some(ReleaseState::Draining {
                empty_since: Some(empty),
                ..
            }) => {
                let left = (empty + self.straggler_buffer()).since(now);
                Err(Illegal::Settling { label, left })
            }
            Some(ReleaseState::Draining {
                empty_since: None, ..
            }) => {
                let count = describe(&self.count(now, seen, release));
                Err(Illegal::StillHolds { label, count })
            }
            _ => Err(Illegal::NotDrained { label }),
        }
    }

    pub(super) fn forget(
        &self,
        now: Timestamp,
        seen: &Seen,
        input: &Input,
        gateway: &GatewayId,
    ) -> Result<Vec<Fact>, Illegal> {
        if !self.gateways.contains(gateway) {
            return Err(Illegal::UnknownGateway {
                gateway: gateway.clone(),
            });
        }
        if seen.is_leased(now, gateway) {
            return Err(Illegal::GatewayAlive {
                gateway: gateway.clone(),
            });
        }
        let listened = now.since(seen.began());
        if listened < LEASE && self.on(Guard::ColdStart) {
            return Err(Illegal::NotListenedYet {
                gateway: gateway.clone(),
                left: Millis(LEASE.0 - listened.0),
            });
        }
        let reason = input.reason_text("forgotten");
        Ok(vec![Fact::GatewayForgotten {
            gateway: gateway.clone(),
            reason,
        }])
    }
}

fn describe(count: &Count) -> String {
    match count {
        Count::Known { live, pinned } => format!("{live} live and {pinned} pinned calls"),
        Count::Unknown { gateways } => {
            let hold = Hold::Unknown {
                gateways: gateways.clone(),
            };
            format!("an unknown number of calls: {hold}")
        }
    }
}

/// Labels with counts, for an error.
pub(super) fn list(draining: &[(Label, u64)]) -> String {
    let one = |(label, calls): &(Label, u64)| format!("{label} ({calls} calls)");
    draining.iter().map(one).collect::<Vec<_>>().join(", ")
}
