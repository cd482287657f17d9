//! What goes wrong: how often, and what is taken away on purpose.

use segue_core::rollout::Guard;

use super::rng::Rng;

/// A guard that is taken away, so that a check has something to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mutant {
    /// One of the machine's own.
    Core(Guard),
    /// The journal takes an append at any position: two controllers write.
    JournalFenceOff,
    /// A controller tells the gateways before the decision is durable.
    PublishBeforeAppend,
    /// A restarted controller misses one fact of the journal.
    ReplaySkipsAFact,
    /// A gateway installs whatever table comes.
    GatewayTakesSmallerEpoch,
    /// A gateway decides, and counts only later; meanwhile it acknowledges.
    GatewayCountsLate,
    /// A gateway acknowledges a table that a restart forgets.
    GatewayForgetsTable,
    /// A gateway gets tables before its calls count.
    PublishBeforeJoin,
    /// The platform obeys a controller that was replaced.
    PlatformFenceOff,
    /// A gateway ends calls on a word that came late, of a release that is current again.
    GatewayEndsAnyway,
}

impl Mutant {
    /// Those of the simulated driver and gateway; the machine's are in [`Guard::ALL`].
    pub(crate) const AROUND: [Self; 9] = [
        Self::JournalFenceOff,
        Self::PublishBeforeAppend,
        Self::ReplaySkipsAFact,
        Self::GatewayTakesSmallerEpoch,
        Self::GatewayCountsLate,
        Self::GatewayForgetsTable,
        Self::PublishBeforeJoin,
        Self::PlatformFenceOff,
        Self::GatewayEndsAnyway,
    ];

    /// The checks that must find it. Others may be broken first, by what follows from it.
    pub(crate) fn found_by(self) -> &'static [&'static str] {
        match self {
            Self::Core(guard) => match guard {
                Guard::StopOnlyRetired => &["i1_no_live_call_ended_by_us"],
                Guard::GatesFirst => &["i3_only_proven_releases_take_calls"],
                Guard::AckFirst => &["i4_landed_is_a_fact"],
                Guard::RollbackAck => &["i5_rolled_back_is_a_fact"],
                Guard::RollbackAlways => &["i5_rollback_is_never_refused"],
                Guard::Room => &["i7_there_is_room"],
                Guard::UnknownIsNotZero | Guard::CountsOfThisTable => &["i8_empty_is_confirmed"],
                Guard::StragglerBuffer => &["i8_drained_for_the_whole_buffer"],
                Guard::ConfirmWithdrawal => &["i8_withdrawal_is_confirmed"],
                Guard::NoDataNoVerdict => &["i10_no_data_no_verdict"],
                Guard::ConflictToken => &["an_operator_decides_on_what_they_saw"],
                Guard::ReclaimOnlyDrained => &["i8_only_a_drained_release_is_withdrawn"],
                Guard::ThisAttempt => &["i3_the_verdict_is_of_this_attempt"],
                Guard::ColdStart => &["only_a_silent_gateway_is_forgotten", "i4_landed_is_a_fact"],
                Guard::LimitsTrip => &["i10_harm_is_not_promoted"],
                Guard::HookFirst => &["no_worker_before_its_hook"],
                Guard::ApprovalFirst => &["i3_nobody_goes_on_without_approval"],
                Guard::ContractLast => &["a_contract_runs_last"],
                Guard::BakeRollsBack => &["harm_is_not_baked"],
                Guard::PolicyAudited => &["i1_calls_end_by_audited_policy_only"],
                Guard::PermitsCount => &["i8_permits_count"],
            },
            Self::JournalFenceOff | Self::ReplaySkipsAFact => &["i6_memory_is_the_replay"],
            Self::PublishBeforeAppend => &["i9_a_table_follows_from_the_journal"],
            Self::GatewayTakesSmallerEpoch => &["i4_epochs_only_grow"],
            Self::GatewayCountsLate | Self::GatewayForgetsTable => {
                &["i4_no_call_by_an_earlier_table"]
            }
            Self::GatewayEndsAnyway => &["i1_calls_end_of_a_draining_release_only"],
            Self::PublishBeforeJoin => &["i8_only_counted_gateways_take_calls"],
            Self::PlatformFenceOff => &[
                "i8_stopped_only_when_empty",
                "i1_no_live_call_ended_by_us",
                "i1_no_live_call_ended_by_stopping",
            ],
        }
    }

    pub(crate) fn guard(self) -> Option<Guard> {
        match self {
            Self::Core(guard) => Some(guard),
            _ => None,
        }
    }
}

/// How bad a run is, in draws per thousand. Each seed has its own mixture: a run in which
/// everything fails all the time never gets far enough to break something interesting.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    pub(crate) message_lost: u64,
    pub(crate) message_repeated: u64,
    pub(crate) message_late: u64,
    /// Before each of the driver's steps.
    pub(crate) crash: u64,
    pub(crate) freeze: u64,
    pub(crate) store: u64,
    /// Each few seconds.
    pub(crate) partition: u64,
    pub(crate) slow_gateway: u64,
    pub(crate) gateway_killed: u64,
    pub(crate) worker_killed: u64,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self {
            message_lost: 0,
            message_repeated: 0,
            message_late: 0,
            crash: 0,
            freeze: 0,
            store: 0,
            partition: 0,
            slow_gateway: 0,
            gateway_killed: 0,
            worker_killed: 0,
        }
    }

    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut some = |high: u64| if rng.chance(500) { rng.below(high) } else { 0 };
        Self {
            message_lost: some(80),
            message_repeated: some(80),
            message_late: some(80),
            crash: some(12),
            freeze: some(8),
            store: some(40),
            partition: some(250),
            slow_gateway: some(300),
            gateway_killed: some(80),
            worker_killed: some(150),
        }
    }
}
