//! Arguments of `segue workers`.

use clap::{Args, Subcommand};

use super::examples;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) what: Option<WorkersDo>,
    /// Which agent [default: the only one]
    pub(crate) agent: Option<String>,
    /// Only of this release: its label or digest
    #[arg(long, short)]
    pub(crate) release: Option<String>,
}

/// What is done with one worker.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum WorkersDo {
    /// Show all that is known of a worker
    #[command(after_help = examples::WORKERS_INSPECT)]
    Inspect(WorkerArgs),
    /// Give a LiveKit worker no more jobs; it finishes those that it has
    ///
    /// Enforced by the dispatcher, whatever the worker thinks, also when it comes back.
    #[command(after_help = examples::WORKERS_DRAIN)]
    Drain(SteerArgs),
    /// Take a drain back, so that a LiveKit worker is given jobs again
    ///
    /// Only an operator's: one that drains by itself or by its membership goes on draining.
    #[command(after_help = examples::WORKERS_UNDRAIN)]
    Undrain(SteerArgs),
    /// Drain a LiveKit worker and close its connection; its jobs go on
    ///
    /// For one that hangs. It claims its jobs when it comes back, and is given no new ones then.
    #[command(after_help = examples::WORKERS_KICK)]
    Kick(KickArgs),
}

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct WorkerArgs {
    /// Its id, or the beginning of it
    pub(crate) worker: String,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
}

/// Which worker, and why.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct SteerArgs {
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
    /// Why: goes into the audit log
    #[arg(long, short)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct KickArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// Without this nothing is done
    #[arg(long)]
    pub(crate) yes: bool,
}
