//! Arguments of `segue bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

// The last word counts, so that a script can have defaults.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct BenchArgs {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    pub(crate) modes: Vec<BenchMode>,
    /// Beside which proxies [default: those that are installed; with --tls haproxy]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEERS")]
    pub(crate) against: Option<Vec<BenchPeer>>,
    /// How often each is measured, in turns; what is told is the median
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Length of each measured window; with slow connections at least a minute
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// How many calls, instead of the numbers that a measurement has of its own
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9_900))]
    pub(crate) calls: Vec<u32>,
    /// Callers speak TLS 1.3 to the proxy, with a certificate made for the run
    #[arg(long)]
    pub(crate) tls: bool,
    /// Also keep the table and all values in this folder, as table.md and results.json
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
    #[arg(
        long,
        help = "This HAProxy [default: the one in PATH]",
        env = "SEGUE_BENCH_HAPROXY",
        value_name = "PROGRAM"
    )]
    pub(crate) haproxy: Option<PathBuf>,
    /// This nginx
    #[arg(long, env = "SEGUE_BENCH_NGINX", value_name = "PROGRAM")]
    pub(crate) nginx: Option<PathBuf>,
    /// This Envoy
    #[arg(long, env = "SEGUE_BENCH_ENVOY", value_name = "PROGRAM")]
    pub(crate) envoy: Option<PathBuf>,
    /// This Sozu
    #[arg(long, env = "SEGUE_BENCH_SOZU", value_name = "PROGRAM")]
    pub(crate) sozu: Option<PathBuf>,
    /// Measure the gateway of another build of Segue
    #[arg(long, hide = true, value_name = "PROGRAM")]
    pub(crate) gateway: Option<PathBuf>,
    /// Seconds with slow connections in all, however few that is
    #[arg(long, hide = true, value_name = "SECONDS")]
    pub(crate) slow_seconds: Option<u32>,
    /// Have the bare relay damage what it relays; the bench must notice
    #[arg(long, hide = true, value_enum, default_value_t)]
    pub(crate) damage: BenchDamage,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchMode {
    /// Processor time and delay of calls in which everybody speaks
    Load,
    /// New calls in a second
    Rate,
    /// Memory of calls in which nobody speaks
    Idle,
    /// Calls that are given to another gateway process, twice in a row, and under new calls
    Handoff,
    /// Calls whose gateway is killed with signal 9
    Crash,
    /// Calls beside five hundred connections that never end their request
    Slow,
}

/// What it can be measured beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPeer {
    #[value(help = "HAProxy")]
    Haproxy,
    /// nginx
    Nginx,
    /// Envoy
    Envoy,
    /// Sozu
    Sozu,
    /// A relay that parses nothing, built in
    Relay,
    /// No proxy at all
    Direct,
}

/// What a relay can do wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchDamage {
    #[default]
    None,
    Flip,
    Drop,
    Twice,
    Cut,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPartArgs {
    /// What it is, as JSON
    pub(crate) spec: String,
}
