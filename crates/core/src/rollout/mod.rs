//! Moving an agent from one release to the next.
//!
//! [`Agent::step`] decides and changes nothing; [`Agent::apply`] takes a decision in and cannot
//! fail; [`Agent::effects`] says what the world should look like; [`Agent::next_deadline`] is the
//! only timer. The driver's order is always: append the facts to the journal, sync, apply,
//! publish, then carry the effects out.

mod agent;
mod event;
mod fact;
mod guard;
mod seen;

mod advance;
mod apply;
mod bake;
mod contract;
mod effect;
mod gates;
mod hold;
mod illegal;
mod inputs;
mod notice;
mod retire;
mod standing;
mod step;
mod straggle;

pub use agent::{
    Agent, Bake, Baseline, Contract, ContractState, Gate, Mark, Pause, Phase, ReleaseRecord,
    Rollout, WorkerRecord,
};
pub use bake::BAKE_ATTEMPTS;
pub use effect::{Effect, HookKind, Want};
pub use event::{Event, Input, Verdict};
pub use fact::{FACT_NAMES, FACT_VERSION, Fact};
pub use gates::WEBHOOK_PAUSE_MAX;
pub use guard::Guard;
pub use hold::{Hold, ROLLBACK_WAIT, SILENT_WAIT};
pub use illegal::Illegal;
pub use notice::Notice;
pub use seen::{Count, Seen, Unacked};
pub use standing::Badge;
