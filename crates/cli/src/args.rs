//! The command line.

mod access;
mod bench;
mod change;
mod examples;
mod look;
mod membership;
mod setup;
mod workers;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use self::access::{ApiDo, RemoteArgs, TokenCreateArgs, TokenDo};
pub(crate) use self::bench::{BenchArgs, BenchDamage, BenchMode, BenchPartArgs, BenchPeer};
pub(crate) use self::change::{
    ApproveArgs, DeployArgs, ForgetArgs, MadeOf, OnlyPart, PlanArgs, PromoteArgs, ReleaseArgs,
    RollbackArgs, VerbArgs, Wait,
};
pub(crate) use self::look::{
    AuditArgs, AuditDo, AuditExportArgs, AuditTailArgs, CallsArgs, DiffArgs, DoctorArgs,
    ExplainArgs, HistoryArgs, LogsArgs, PermitsArgs, StatusArgs, TopArgs,
};
pub(crate) use self::membership::{
    MembershipDo, RevokeArgs, RotateArgs, SignArgs, TokenArgs, VerifyArgs,
};
pub(crate) use self::setup::{
    ConfigArgs, ConfigDo, DemoArgs, DispatchArgs, GatewayArgs, InitArgs, ManArgs, SampleArgs,
    UpgradeArgs,
};
pub(crate) use self::workers::{KickArgs, SteerArgs, WorkerArgs, WorkersArgs, WorkersDo};
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

    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
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
    #[command(after_help = examples::INIT)]
    Init(InitArgs),
    /// Run Segue here: the gateway that takes calls and the controller that steers it
    ///
    /// Ctrl-C ends it once the live calls have ended by themselves; a second Ctrl-C leaves
    /// everything running in the background, where the next `segue serve` finds it again.
    #[command(after_help = examples::SERVE)]
    Serve(ConfigArgs),
    /// End a `segue serve`, once its live calls have ended by themselves
    #[command(after_help = examples::STOP)]
    Stop,
    /// Read segue.toml and the certificates again; calls and releases stay as they are
    ///
    /// All of the file is taken, or nothing when it has a fault. The next deploy follows the new
    /// settings; listeners are read at a start only, and named if they differ.
    #[command(after_help = examples::RELOAD)]
    Reload,
    /// Replace the running Segue by another binary, under live calls
    ///
    /// Gateway, controller and supervisor, in this order. The new gateway takes the listener and
    /// both sockets of every live call; the old one ends. TLS calls stay with the old gateway until
    /// they end. If anything fails before the calls have moved, the old one serves on. SIGUSR2 to
    /// `segue serve` does the same with the file that is now in its place.
    #[command(after_help = examples::UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Say what a deploy would do, step by step, and what is missing; nothing happens
    ///
    /// From the configuration, and from the running Segue if there is one: its current release,
    /// its live calls, the room that they need.
    #[command(after_help = examples::PLAN)]
    Plan(PlanArgs),
    /// Bring in a release, and watch it until it takes all new calls
    ///
    /// Its workers start beside those of the current release. It must pass its gates, then takes
    /// the shares of new calls that the plan says, then all of them. The release before ends its
    /// calls by itself and stands by for `segue rollback`.
    #[command(after_help = examples::DEPLOY)]
    Deploy(DeployArgs),
    /// Show releases, shares of new calls, live calls and how far the rollout is
    #[command(after_help = examples::STATUS)]
    Status(StatusArgs),
    /// Watch it live, full screen, and steer it with single keys
    ///
    /// Keys: p pause, r resume, P promote, R rollback, a abort, ? help, q quit. Each asks first,
    /// and says what will happen.
    #[command(after_help = examples::TOP)]
    Top(TopArgs),
    /// List the calls in progress, oldest first
    #[command(after_help = examples::CALLS)]
    Calls(CallsArgs),
    /// List the workers of an agent; inspect, drain, undrain or kick one
    ///
    /// Processes that Segue runs, LiveKit workers that are connected to the dispatcher, and whoever
    /// says how it is. Only LiveKit workers are drained alone: other calls go by releases.
    #[command(after_help = examples::WORKERS)]
    Workers(WorkersArgs),
    /// Make the rollout wait where it is
    #[command(after_help = examples::PAUSE)]
    Pause(VerbArgs),
    /// Let a paused rollout go on
    #[command(after_help = examples::RESUME)]
    Resume(VerbArgs),
    /// Go on to the next share, or with --full to all new calls
    ///
    /// Returns once every gateway has acknowledged; exit code 5 names those that could not.
    #[command(after_help = examples::PROMOTE)]
    Promote(PromoteArgs),
    /// End the rollout; the current release stays
    #[command(after_help = examples::ABORT)]
    Abort(VerbArgs),
    /// Give all new calls back to the release before
    ///
    /// Waits for no gate, worker or person. Calls in progress stay where they are and end by
    /// themselves. With --only, a release that differs from the current one in that part alone is
    /// brought in instead, without ramp and approval.
    #[command(after_help = examples::ROLLBACK)]
    Rollback(RollbackArgs),
    /// Agree to a rollout that waits for a person; needs the role approver
    #[command(after_help = examples::APPROVE)]
    Approve(ApproveArgs),
    /// Run the contract hook of the current release, once no process of an older one is left
    ///
    /// It runs by itself as soon as that is so; this runs one that failed again, and says which
    /// releases are in the way.
    #[command(after_help = examples::CONTRACT)]
    Contract(ReleaseArgs),
    /// Take the current release out of service: new calls are turned away, live ones go on
    #[command(after_help = examples::DRAIN)]
    Drain(ReleaseArgs),
    /// Retire a drained release now instead of at the end of its standby
    #[command(after_help = examples::RETIRE)]
    Retire(ReleaseArgs),
    /// Show what tells two releases apart: command, files, prompt, model, environment, components
    #[command(after_help = examples::DIFF)]
    Diff(DiffArgs),
    /// List the outbound calls that workers were permitted to make and that are not over
    #[command(after_help = examples::PERMITS)]
    Permits(PermitsArgs),
    /// List the rollouts of an agent: what, when, how it ended, by whom
    #[command(after_help = examples::HISTORY)]
    History(HistoryArgs),
    /// Tell a rollout decision by decision, each with what was known when it was taken
    #[command(after_help = examples::EXPLAIN)]
    Explain(ExplainArgs),
    /// Print what a worker, the gateway or the controller wrote
    #[command(after_help = examples::LOGS)]
    Logs(LogsArgs),
    /// Print, follow, export or verify the audit log: each decision with what was known then
    #[command(after_help = examples::AUDIT)]
    Audit(AuditArgs),
    /// Vouch that a gateway is gone for good, so that its calls no longer count
    #[command(after_help = examples::FORGET)]
    Forget(ForgetArgs),
    /// Look for what is wrong or soon will be, and say how to mend it
    ///
    /// Works with and without a running Segue. Exit code 1 if something fails; warnings alone
    /// are exit code 0.
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorArgs),
    /// Check a configuration, or print what can be written into one
    #[command(subcommand, after_help = examples::CONFIG)]
    Config(ConfigDo),
    /// Watch releases being replaced under live calls, with nothing else installed
    ///
    /// Two releases of the built-in sample agent, real audio at real time; the controller is
    /// killed on the way, a broken release is stopped, and one is rolled back. Windows are
    /// shortened. The counts come from a judge that reads only the logs of callers and workers.
    #[command(after_help = examples::DEMO)]
    Demo(DemoArgs),
    /// Measure what a call costs here, beside other proxies in the same run
    ///
    /// Starts each proxy that is installed with a configuration made for the run, all on the same
    /// processor, and a generator and agents on another one. Every byte is checked. Exit code 1 if
    /// one was wrong or lost, or a call was.
    #[command(after_help = examples::BENCH)]
    Bench(BenchArgs),
    /// Run the built-in sample agent: Twilio Media Streams, voice detection, recorded speech
    #[command(after_help = examples::SAMPLE_AGENT)]
    SampleAgent(SampleArgs),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page per verb into a folder
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
    /// Make, list or revoke tokens of the admin API
    ///
    /// Each has a role: viewer, operator, approver, admin, or worker for agents.
    #[command(after_help = examples::TOKEN, subcommand)]
    Token(TokenDo),
    /// Sign which releases may take calls: keys, key sets, manifests and worker tokens
    ///
    /// A gate admits workers by a manifest, which is signed for some minutes by somebody else than
    /// the workers. Files only; nothing here ends a call. See docs/guide/membership.md.
    #[command(after_help = examples::MEMBERSHIP, subcommand)]
    Membership(MembershipDo),
    /// Give jobs of a LiveKit server to the workers of releases; `segue serve` runs it by itself
    ///
    /// Workers connect here instead of to LiveKit, and media does not pass. SIGTERM ends it once the
    /// jobs have ended by themselves. Killed, it is back with every job. See docs/livekit.md.
    #[command(after_help = examples::DISPATCH)]
    Dispatch(DispatchArgs),
    /// Describe the admin API
    #[command(after_help = examples::API, subcommand)]
    Api(ApiDo),
    /// Judge a folder of caller and worker logs
    #[command(hide = true)]
    Judge {
        /// The folder
        dir: PathBuf,
    },
    /// Run one process of `segue bench`
    #[command(hide = true)]
    BenchPart(BenchPartArgs),
    /// Print what this binary speaks, for one that is to hand over to it
    #[command(hide = true)]
    Versions,
    /// Run the gateway process alone
    #[command(hide = true)]
    Gateway(GatewayArgs),
    /// Run the controller process alone
    #[command(hide = true)]
    Controller(ConfigArgs),
}
