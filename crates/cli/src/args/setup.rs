//! Arguments of what sets Segue up and runs it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use segue_core::names::GatewayId;

use super::examples;
use crate::demo::Sabotage;

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
pub(crate) struct UpgradeArgs {
    /// The binary that everything is to become [default: this one]
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// How many seconds to watch; the upgrade itself goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
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

#[derive(Debug, Clone, Args)]
pub(crate) struct DispatchArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Who it is to the controller, among its gateways; two that run at once must differ
    #[arg(long, default_value = "dispatch-1", value_name = "NAME")]
    pub(crate) id: GatewayId,
    /// Standard input is the socket where workers connect, kept by whoever starts us
    #[arg(long, hide = true)]
    pub(crate) door: bool,
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

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigDo {
    /// Report every fault of a configuration, each with line, column and what to write instead
    ///
    /// Nothing is started or changed. Exit code 2 if there is a fault.
    #[command(after_help = examples::CONFIG_CHECK)]
    Check {
        /// The file
        #[arg(default_value = "segue.toml")]
        file: PathBuf,
    },
    /// Print the JSON schema of segue.toml, for editors
    #[command(after_help = examples::CONFIG_SCHEMA)]
    Schema,
    /// Print every key with its type, default and meaning, as Markdown
    #[command(after_help = examples::CONFIG_REFERENCE)]
    Reference,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write segue.1 and one page per verb into this folder, instead of printing the first
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}
