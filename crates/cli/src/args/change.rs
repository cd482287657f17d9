//! Arguments of the verbs that ask for a decision.

use clap::{Args, ValueEnum};

/// Which agent, and why.
#[derive(Debug, Clone, Args)]
pub(crate) struct VerbArgs {
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Why: goes into the audit log
    #[arg(long, short)]
    pub(crate) reason: Option<String>,
    /// Only if the rollout is still at this revision (see `segue status`)
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// What you call the release, for example v2.1.0
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
    /// How many workers it runs
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// How many calls one worker may hold
    #[arg(long, value_name = "N")]
    pub(crate) capacity: Option<u32>,
    /// Environment of its workers, beside the configured one
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Until when to watch
    #[arg(long, value_enum, default_value_t)]
    pub(crate) wait: Wait,
    /// Program and arguments, with {port}; default: the agent's `command`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Until when `deploy` watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Wait {
    /// Not at all.
    None,
    /// Until it takes all new calls (or waits for an operator, fails, is rolled back).
    #[default]
    Landed,
    /// Until the release before is drained.
    Drained,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
    /// Straight to all new calls
    #[arg(long)]
    pub(crate) full: bool,
    /// Without gates and without a look at the room; needs --reason and is audited
    #[arg(long, requires = "reason")]
    pub(crate) skip_gates: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Label or digest [default: the only one it can mean]
    pub(crate) release: Option<String>,
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Its id, as in `segue status`
    pub(crate) gateway: String,
    /// Why you are sure that it is gone
    #[arg(long, short)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// What you would call the release
    pub(crate) label: Option<String>,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// The configuration
    #[arg(long, short, default_value = "segue.toml", value_name = "FILE")]
    pub(crate) config: std::path::PathBuf,
    /// How many workers it would run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) workers: Option<u32>,
    /// How many calls one worker could hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) capacity: Option<u32>,
}
