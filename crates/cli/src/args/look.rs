//! Arguments of the verbs that only look.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::examples;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Which agent [default: all]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Keep watching until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CallsArgs {
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Label or digest of a release, `gateway`, `controller`, `calls` or `hooks`
    /// [default: every worker and component of the current release]
    pub(crate) of: Option<String>,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Only this worker
    #[arg(long, short)]
    pub(crate) worker: Option<String>,
    /// Only this component
    #[arg(long, short, conflicts_with = "worker")]
    pub(crate) component: Option<String>,
    /// Keep printing what is added
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many lines from the end to begin with
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) lines: usize,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) what: Option<AuditDo>,
    /// The same as `segue audit verify`
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only of this agent
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Only of this name, ours or OpenRTC's (deployment.started); once for each
    #[arg(long, short, value_name = "NAME")]
    pub(crate) event: Vec<String>,
    /// The entries that follow this one, instead of the newest
    #[arg(long, value_name = "SEQ")]
    pub(crate) after: Option<u64>,
    /// At most this many
    #[arg(long, default_value_t = 200)]
    pub(crate) limit: usize,
    /// Every entry there is
    #[arg(long, conflicts_with_all = ["after", "limit"])]
    pub(crate) all: bool,
}

/// What else can be done with the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum AuditDo {
    /// Print the newest entries, and each further one as it is written, until Ctrl-C
    ///
    /// Goes on when the controller was away. With --output json, one event a line.
    #[command(after_help = examples::AUDIT_TAIL)]
    Tail(AuditTailArgs),
    /// Print every entry as a CloudEvent, one JSON object a line, oldest first
    ///
    /// What OpenRTC has a name for carries it in `openrtc`.
    #[command(after_help = examples::AUDIT_EXPORT)]
    Export(AuditExportArgs),
    /// Check the chain: each entry holds the digest of the one before
    ///
    /// Exit code 1 if an entry was edited, removed or moved. Keep the printed head elsewhere:
    /// only a copy of it finds that the whole log was written anew.
    #[command(after_help = examples::AUDIT)]
    Verify,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct AuditTailArgs {
    /// Only of this agent
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Only of this name, ours or OpenRTC's (deployment.started); once for each
    #[arg(long, short, value_name = "NAME")]
    pub(crate) event: Vec<String>,
    /// How many entries from the end to begin with
    #[arg(long, short = 'n', default_value_t = 10)]
    pub(crate) lines: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct AuditExportArgs {
    /// Only of this agent
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Only of this name, ours or OpenRTC's (deployment.started); once for each
    #[arg(long, short, value_name = "NAME")]
    pub(crate) event: Vec<String>,
    /// Only what follows this entry: the `id` that was exported last
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    pub(crate) after: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Label or digest of the one [default: the release that a rollback goes to]
    pub(crate) from: Option<String>,
    /// Label or digest of the other [default: the current release]
    pub(crate) to: Option<String>,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PermitsArgs {
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Number of the rollout, as in `segue history` [default: the last one]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rollout: Option<u64>,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// At most this many, the newest
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Which agent to begin with [default: the first]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Print one frame as text and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How wide that frame is, in columns
    #[arg(long, requires = "once", default_value_t = 110, value_parser = clap::value_parser!(u16).range(60..=400))]
    pub(crate) width: u16,
    /// How high that frame is, in lines
    #[arg(long, requires = "once", default_value_t = 36, value_parser = clap::value_parser!(u16).range(16..=400))]
    pub(crate) height: u16,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The configuration to look at
    #[arg(long, short, default_value = "segue.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Say also what is well
    #[arg(long)]
    pub(crate) all: bool,
}
