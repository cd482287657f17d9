//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use segue_core::names::GatewayId;

use crate::demo::Sabotage;
use crate::exit::EXIT_CODES;

/// Replace releases of a voice agent under live calls, without dropping one.
///
/// A first look:          segue demo
/// A first agent:         segue init && segue serve
/// A release (2nd shell): segue deploy v1
/// The next one:          segue deploy v2
/// Back again:            segue rollback
#[derive(Debug, Parser)]
#[command(name = "segue", version, verbatim_doc_comment, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Where Segue keeps its state [default: `$SEGUE_HOME` or ./.segue]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,

    /// How answers are printed; words for people go to standard error
    #[arg(long, short, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// The same as YAML.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented segue.toml to start from
    Init(InitArgs),
    /// Run Segue here: the gateway that takes calls and the controller that steers it
    ///
    /// Ctrl-C ends it once the live calls have ended by themselves; a second Ctrl-C leaves
    /// everything running in the background, where the next `segue serve` finds it again.
    Serve(ConfigArgs),
    /// End a `segue serve`, once its live calls have ended by themselves
    Stop,
    /// Bring in a release, and watch it until it takes all new calls
    ///
    /// Its workers start beside those of the current release. It must pass its gates, then takes
    /// the shares of new calls that the plan says, then all of them. The release before ends its
    /// calls by itself and stands by for `segue rollback`.
    Deploy(DeployArgs),
    /// Show releases, shares of new calls, live calls and how far the rollout is
    Status(StatusArgs),
    /// List the calls in progress, oldest first
    Calls(CallsArgs),
    /// Make the rollout wait where it is
    Pause(VerbArgs),
    /// Let a paused rollout go on
    Resume(VerbArgs),
    /// Go on to the next share, or with --full to all new calls
    ///
    /// Returns once every gateway has acknowledged; exit code 5 names those that could not.
    Promote(PromoteArgs),
    /// End the rollout; the current release stays
    Abort(VerbArgs),
    /// Give all new calls back to the release before
    ///
    /// Waits for no gate, worker or person. Calls in progress stay where they are and end by
    /// themselves.
    Rollback(VerbArgs),
    /// Take the current release out of service: new calls are turned away, live ones go on
    Drain(ReleaseArgs),
    /// Retire a drained release now instead of at the end of its standby
    Retire(ReleaseArgs),
    /// Print what a worker, the gateway or the controller wrote
    Logs(LogsArgs),
    /// Print or verify the audit log: each decision with what was known when it was taken
    Audit(AuditArgs),
    /// Vouch that a gateway is gone for good, so that its calls no longer count
    Forget(ForgetArgs),
    /// Watch releases being replaced under live calls, with nothing else installed
    ///
    /// Two releases of the built-in sample agent, real audio at real time; the controller is
    /// killed on the way, a broken release is stopped, and one is rolled back. Windows are
    /// shortened. The counts come from a judge that reads only the logs of callers and workers.
    Demo(DemoArgs),
    /// Run the built-in sample agent: Twilio Media Streams, voice detection, recorded speech
    SampleAgent(SampleArgs),
    /// Print a completion script for a shell
    ///
    /// bash: segue completions bash > ~/.local/share/bash-completion/completions/segue
    #[command(verbatim_doc_comment)]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Judge a folder of caller and worker logs
    #[command(hide = true)]
    Judge {
        /// The folder
        dir: PathBuf,
    },
    /// Run the gateway process alone
    #[command(hide = true)]
    Gateway(GatewayArgs),
    /// Run the controller process alone
    #[command(hide = true)]
    Controller(ConfigArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The file to write
    #[arg(default_value = "segue.toml")]
    pub(crate) file: PathBuf,
    /// Write over an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration
    #[arg(long, short, default_value = "segue.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Take listeners and live calls over from the gateway that listens here
    #[arg(long, value_name = "SOCKET")]
    pub(crate) takeover: Option<PathBuf>,
    /// Who it is to the controller; two that run at once must differ
    #[arg(long, hide = true, default_value = "gw-1", value_name = "NAME")]
    pub(crate) id: GatewayId,
}

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
pub(crate) struct LogsArgs {
    /// Label or digest of a release, `gateway`, `controller` or `calls`
    /// [default: every worker of the current release]
    pub(crate) of: Option<String>,
    /// Which agent [default: the only one]
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
    /// Only this worker
    #[arg(long, short)]
    pub(crate) worker: Option<String>,
    /// Keep printing what is added
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many lines from the end to begin with
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) lines: usize,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Check the chain instead of printing it
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only of this agent
    #[arg(long, short)]
    pub(crate) agent: Option<String>,
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

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Its id, as in `segue status`
    pub(crate) gateway: String,
    /// Why you are sure that it is gone
    #[arg(long, short)]
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// How many people talk at once
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(4..=400))]
    pub(crate) callers: u32,
    /// How long people keep calling, at least; the story itself takes about 90 seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub(crate) seconds: u32,
    /// Of the call lengths and of what is asked
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Break something on purpose; the judge must notice, and the exit code is 1
    #[arg(long, value_enum)]
    pub(crate) sabotage: Option<Sabotage>,
    /// Keep the folder with the logs
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// Port on loopback
    #[arg(long, short, env = "PORT")]
    pub(crate) port: u16,
    /// Release it says it is
    #[arg(long, env = "SEGUE_RELEASE", default_value = "dev")]
    pub(crate) release: String,
    /// Worker it says it is
    #[arg(long, env = "SEGUE_WORKER_ID", default_value = "worker")]
    pub(crate) worker: String,
    /// Append a line per call to this file
    #[arg(long, env = "SAMPLE_CALL_LOG", value_name = "FILE")]
    pub(crate) call_log: Option<PathBuf>,
    /// How it is broken: none, silent, garbled, wrong, drop:MS, drop:MS@PERCENT, refuse,
    /// never-ready or crash
    #[arg(long, env = "SAMPLE_FAULT", default_value = "none")]
    pub(crate) fault: String,
}
