//! What can be measured, one file each.

mod crash;
mod handoff;
mod idle;
mod load;
mod rate;
mod slow;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::drive::Reply;
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options};

/// What a proxy, a generator and agents take to start and to end.
const AROUND: Duration = Duration::from_secs(1);

/// One kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Memory of calls in which nobody speaks.
    Idle,
    /// Processor time and delay of calls in which everybody speaks.
    Load,
    /// How many calls can begin in a second.
    Rate,
    /// What calls notice of a gateway that gives them to the next one.
    Handoff,
    /// What calls notice of a gateway that is killed.
    Crash,
    /// What calls notice of connections that never say what they want.
    Slow,
}

impl Mode {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Load => "load",
            Self::Rate => "rate",
            Self::Handoff => "handoff",
            Self::Crash => "crash",
            Self::Slow => "slow",
        }
    }

    /// Whether there is anything to measure of a target.
    pub(crate) fn measures(self, target: Target) -> bool {
        match self {
            Self::Idle | Self::Slow => target != Target::Direct,
            // Nobody else has it.
            Self::Handoff | Self::Crash => target == Target::Segue,
            Self::Load | Self::Rate => true,
        }
    }

    /// Whether a round measures it. How much a machine adds by itself is known after the first one.
    pub(crate) fn is_due(self, target: Target, round: usize) -> bool {
        self.measures(target) && (target != Target::Direct || round == 1)
    }

    /// About how long one measurement takes.
    pub(crate) fn takes(self, options: &Options) -> Duration {
        match self {
            Self::Idle => idle::takes(options),
            Self::Load => load::takes(options),
            Self::Rate => rate::takes(options),
            Self::Handoff => handoff::takes(options),
            Self::Crash => crash::takes(),
            Self::Slow => slow::takes(options),
        }
    }

    pub(crate) fn measure(
        self,
        bench: &Bench<'_>,
        target: Target,
        results: &mut Results,
    ) -> Result<(), BenchError> {
        match self {
            Self::Idle => idle::measure(bench, target, results),
            Self::Load => load::measure(bench, target, results),
            Self::Rate => rate::measure(bench, target, results),
            Self::Handoff => handoff::measure(bench, target, results),
            Self::Crash => crash::measure(bench, target, results),
            Self::Slow => slow::measure(bench, target, results),
        }
    }
}

/// Notes everything that must not happen to a call. Frames that never came are told by the last
/// reply of a set, after the generator has gone quiet.
fn judge(results: &mut Results, mode: &str, target: Target, reply: &Reply) {
    let counts = [
        (reply.wrong, "payloads were wrong"),
        (reply.missing, "frames were lost"),
        (reply.owed, "frames did not come back"),
        (reply.repeated, "frames came twice or out of order"),
        (reply.lost, "calls were cut"),
        (reply.failed, "calls were not taken"),
    ];
    for (count, what) in counts {
        if count > 0 {
            let fault = format!("{mode} {}: {count} {what}", target.name());
            results.faults.push(fault);
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds of a run are far below 2^52"
)]
fn float(count: u64) -> f64 {
    count as f64
}

fn millis(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1e6
}

fn micros(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1e3
}
