//! What the model's world looks like.

/// What may still happen: the bounds of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) calls: u8,
    pub(super) overrides: u8,
    pub(super) crashes: u8,
    pub(super) sleeps: u8,
    pub(super) instants: u8,
    pub(super) rollbacks: u8,
}

/// Everything. Journals are named by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) now: u8,
    pub(super) journal: usize,
    pub(super) active: Option<Controller>,
    pub(super) zombie: Option<Controller>,
    pub(super) gateways: [Gateway; 2],
    /// Whether the worker of each release runs.
    pub(super) workers: [bool; 2],
    /// How much the controller knew that the platform obeyed last.
    pub(super) fence: u64,
    pub(super) left: Budget,
    /// Properties that do not hold any more.
    pub(super) broken: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Controller {
    pub(super) memory: usize,
    pub(super) stage: Stage,
    pub(super) seen: [Option<Report>; 2],
    pub(super) began: u8,
}

/// What a controller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Idle,
    /// It has decided: with the append, its memory becomes this journal.
    Append(usize),
    Publish,
    Effects,
}

/// A report, and when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Report {
    pub(super) at: u8,
    pub(super) epoch: u64,
    pub(super) live: [u8; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Gateway {
    /// The journal whose table it acts by.
    pub(super) table: usize,
    pub(super) live: [u8; 2],
    /// A mutant's call that is decided and not counted: its release and table.
    pub(super) late: Option<(usize, usize)>,
    /// Tables under way, in no order.
    pub(super) inbox: Vec<usize>,
    /// The largest epoch it has reported.
    pub(super) said: u64,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Tick,
    GoesOn,
    ZombieGoesOn,
    Crash,
    Sleep,
    Restart,
    TimePasses,
    Deploy,
    Rollback,
    WorkerReady,
    SmokePasses,
    SmokeFails,
    Install(usize, usize),
    Report(usize),
    Call(usize, usize),
    OverrideCall(usize, usize),
    Counted(usize),
    CallEnds(usize, usize),
}
