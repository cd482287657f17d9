//! Arguments of the verbs that ask for a decision.

use std::path::PathBuf;

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
    #[command(flatten)]
    pub(crate) made: MadeOf,
    /// Take the ramp and the approval again, although it served well before
    #[arg(long)]
    pub(crate) no_fast_track: bool,
    /// Until when to watch
    #[arg(long, value_enum, default_value_t)]
    pub(crate) wait: Wait,
    /// Program and arguments, with {port}; default: the agent's `command`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What a release is made of, beside its command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MadeOf {
    /// Release that it differs from only in what is given here [default: the current one, if a
    /// part is given and no command; else segue.toml]
    #[arg(long, value_name = "RELEASE")]
    pub(crate) from: Option<String>,
    /// File with its prompt: a copy of it goes to the workers
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt: Option<PathBuf>,
    /// Name of its model, or the path of one
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// File with the workers' own configuration: a copy of it goes to them
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A variable of its workers, or of a component, beside the configured ones
    #[arg(long, short, value_name = "[COMPONENT:]NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Version of a component
    #[arg(long, value_name = "COMPONENT=VERSION")]
    pub(crate) component_version: Vec<String>,
    /// How many workers it runs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) workers: Option<u32>,
    /// How many calls one worker may hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) capacity: Option<u32>,
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
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
    /// Take this part alone back, by a release of its own beside the current one
    #[arg(long, value_enum)]
    pub(crate) only: Option<OnlyPart>,
    /// What that release is called [default: CURRENT-PART-of-BEFORE]
    #[arg(long, requires = "only")]
    pub(crate) label: Option<String>,
    /// Until when to watch that release
    #[arg(long, value_enum, default_value_t, requires = "only")]
    pub(crate) wait: Wait,
}

/// A part of a release that can be taken back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnlyPart {
    /// The prompt.
    Prompt,
    /// The model.
    Model,
    /// The workers' configuration.
    Config,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Label or digest of the one you looked at [default: the one that comes in now]
    pub(crate) release: Option<String>,
    #[command(flatten)]
    pub(crate) verb: VerbArgs,
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
    /// The configuration of Segue
    #[arg(long, short, default_value = "segue.toml", value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) made: MadeOf,
    /// Take the ramp and the approval again, although it served well before
    #[arg(long)]
    pub(crate) no_fast_track: bool,
    /// Program and arguments, with {port}; default: the agent's `command`
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
