//! Contract hooks: they take away what only older releases need, so they run when none is left.
//!
//! A contract waits from the cutover of its release. One that is rolled back from loses it. One
//! that is merely superseded keeps it waiting: it is run if the release is current again, and is
//! dropped when the release retires. So each contract must suit whatever is older than its
//! release, also when the contract in between never ran.

use serde_json::Value;

use crate::names::ReleaseId;
use crate::release::ReleaseState;
use crate::rollout::agent::{Agent, Contract, ContractState, Phase, ReleaseRecord};
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::illegal::Illegal;
use crate::rollout::seen::Seen;
use crate::time::Timestamp;

impl Contract {
    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContractState::Running { .. })
    }
}

impl Agent {
    /// A contract whose time has come.
    pub(super) fn contract_due(&self, now: Timestamp, seen: &Seen) -> Option<Fact> {
        let release = self.current()?;
        let contract = self.contracts.get(&release)?;
        let due = contract.state == ContractState::Waiting
            && !self.may_still_go_back(release)
            && self.olders(seen, release, contract).is_empty()
            && self.strays(seen) == 0;
        due.then(|| start(release, contract, now))
    }

    /// An operator wants it to run now.
    pub(super) fn contract(
        &self,
        now: Timestamp,
        seen: &Seen,
        release: ReleaseId,
    ) -> Result<Vec<Fact>, Illegal> {
        let label = self.label(release);
        let Some(contract) = self.contracts.get(&release) else {
            return Err(Illegal::NoContract { label });
        };
        match contract.state {
            ContractState::Running { .. } => return Ok(Vec::new()),
            ContractState::Done => return Err(Illegal::ContractDone { label }),
            ContractState::Waiting | ContractState::Failed { .. } => {}
        }
        if self.current() != Some(release) {
            return Err(Illegal::NotCurrent { label });
        }
        let older = self.olders(seen, release, contract);
        if !older.is_empty() {
            let older = older.into_iter().map(|id| self.label(id)).collect();
            return Err(Illegal::OlderReleaseLives { label, older });
        }
        let strays = self.strays(seen);
        if strays > 0 {
            return Err(Illegal::StraysLive { label, strays });
        }
        Ok(vec![start(release, contract, now)])
    }

    /// Processes of which nobody knows what they need.
    fn strays(&self, seen: &Seen) -> u32 {
        if self.on(Guard::ContractLast) {
            seen.strays()
        } else {
            0
        }
    }

    pub(super) fn contract_finished(
        &self,
        now: Timestamp,
        (release, of_attempt): (ReleaseId, u32),
        failed: Option<&String>,
        report: &Value,
    ) -> Vec<Fact> {
        let runs = ContractState::Running {
            attempt: of_attempt,
        };
        let contract = self.contracts.get(&release);
        if contract.is_none_or(|contract| contract.state != runs) {
            return Vec::new();
        }
        vec![Fact::ContractFinished {
            release,
            attempt: of_attempt,
            failed: failed.cloned(),
            report: report.clone(),
            at: now,
        }]
    }

    /// A contract that runs takes away what this release needs, if it is an older one.
    pub(super) fn contract_against(&self, release: ReleaseId) -> Option<ReleaseId> {
        let running = self.contracts.iter().filter(|(_, is)| is.is_running());
        let record = self.releases.get(&release)?;
        running
            .filter(|(of, _)| {
                let newer = self.releases.get(of);
                **of == release || newer.is_some_and(|newer| record.first < newer.first)
            })
            .map(|(of, _)| *of)
            .next()
    }

    /// Until it has landed and baked, the release may go back by itself.
    fn may_still_go_back(&self, release: ReleaseId) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| {
            rollout.incoming == release
                && (matches!(rollout.phase, Phase::Promoting { .. }) || rollout.baking().is_some())
        })
    }

    /// Older releases that are not retired, or of which a process may still live. Nobody has
    /// looked yet: then that of any may.
    fn olders(&self, seen: &Seen, release: ReleaseId, contract: &Contract) -> Vec<ReleaseId> {
        if !self.on(Guard::ContractLast) {
            return Vec::new();
        }
        let first = self.releases.get(&release).map_or(0, |record| record.first);
        let older =
            |record: &ReleaseRecord| record.rollout < contract.rollout || record.first < first;
        let lives = |id: ReleaseId, record: &ReleaseRecord| {
            !matches!(record.state, ReleaseState::Retired { .. }) || seen.has_process(id)
        };
        self.releases
            .iter()
            .filter(|(id, record)| **id != release && older(record) && lives(**id, record))
            .map(|(id, _)| *id)
            .collect()
    }

    /// The cutover of a release begins the wait for its contract, or ends one that its plan does
    /// not ask for any more.
    pub(super) fn await_contract(&mut self) {
        let Some(rollout) = &self.rollout else {
            return;
        };
        let (release, rollout, hook) = (
            rollout.incoming,
            rollout.id,
            rollout.plan.hooks.after_retire.clone(),
        );
        let before = self.contracts.remove(&release);
        if let Some(hook) = hook {
            let contract = Contract {
                rollout,
                hook,
                attempts: before.map_or(0, |before| before.attempts),
                state: ContractState::Waiting,
            };
            self.contracts.insert(release, contract);
        }
    }

    /// Its release is gone for good. One that runs is not broken off: half a migration is worse.
    pub(super) fn drop_contract(&mut self, release: ReleaseId) {
        if self
            .contracts
            .get(&release)
            .is_some_and(|is| !is.is_running())
        {
            self.contracts.remove(&release);
        }
    }

    pub(super) fn contract_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::ContractStarted {
                release, attempt, ..
            } => {
                if let Some(contract) = self.contracts.get_mut(release) {
                    contract.attempts = *attempt;
                    contract.state = ContractState::Running { attempt: *attempt };
                }
            }
            Fact::ContractFinished {
                release,
                attempt,
                failed,
                ..
            } => {
                if let Some(contract) = self.contracts.get_mut(release) {
                    contract.state = match failed {
                        None => ContractState::Done,
                        Some(reason) => ContractState::Failed {
                            attempt: *attempt,
                            reason: reason.clone(),
                        },
                    };
                }
                let retired = self
                    .releases
                    .get(release)
                    .is_none_or(|record| matches!(record.state, ReleaseState::Retired { .. }));
                if retired {
                    self.contracts.remove(release);
                }
            }
            _ => {}
        }
    }
}

fn start(release: ReleaseId, contract: &Contract, at: Timestamp) -> Fact {
    Fact::ContractStarted {
        release,
        attempt: contract.attempts + 1,
        at,
    }
}
