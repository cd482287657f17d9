//! `segue`: replace releases of a voice agent under live calls, without dropping one.

mod args;
mod checkup;
mod client;
mod demo;
mod exit;
mod forecast;
mod home;
mod made;
mod output;
mod reach;
mod story;
mod supervise;
mod top;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Trouble};
use crate::home::Home;

/// What a call leaves behind is small and lies between buffers that are gone: with the C library's
/// allocator the holes took more memory than the calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("SEGUE_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(output::is_live())
        .init();
    let runtime = runtime_for(&cli.command)
        .enable_all()
        .build()
        .expect("a process that cannot start threads can do nothing");
    let done = runtime.block_on(run(cli));
    // A blocking read of a log that is followed must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::trouble(&error);
            error
                .downcast_ref::<Trouble>()
                .map_or(Exit::Failed, |trouble| trouble.exit)
                .into()
        }
    }
}

/// A gateway without TLS sets calls up in one thread: that is mostly the kernel's work, and handing
/// it around costs more than it gives. Handshakes are work of our own, and have every core.
fn runtime_for(command: &Command) -> Builder {
    match command {
        Command::Gateway(args) if !verb::process::speaks_tls(args) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    }
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let home = Home::find(cli.home.as_deref())?.asked_at(cli.remote.remote());
    let format = cli.output;
    match cli.command {
        Command::Init(args) => verb::init::run(&args),
        Command::Serve(args) => supervise::serve(&home, &args).await,
        Command::Stop => supervise::stop(&home).await,
        Command::Reload => verb::reload::run(&home, format),
        Command::Upgrade(args) => verb::upgrade::run(&home, format, &args).await,
        Command::Plan(args) => verb::plan::run(&home, format, &args),
        Command::Deploy(args) => verb::deploy::run(&home, format, &args).await,
        Command::Status(args) => verb::status::run(&home, format, &args).await,
        Command::Top(args) => verb::top::run(&home, format, &args).await,
        Command::Calls(args) => verb::calls::run(&home, format, &args),
        Command::Workers(args) => verb::workers::run(&home, format, &args),
        Command::Pause(args) => verb::act::run(&home, format, "pause", &args),
        Command::Resume(args) => verb::act::run(&home, format, "resume", &args),
        Command::Promote(args) => verb::act::promote(&home, format, &args),
        Command::Abort(args) => verb::act::run(&home, format, "abort", &args),
        Command::Rollback(args) => verb::rollback::run(&home, format, &args).await,
        Command::Approve(args) => verb::act::approve(&home, format, &args),
        Command::Contract(args) => verb::act::release(&home, format, "contract", &args),
        Command::Diff(args) => verb::diff::run(&home, format, &args),
        Command::Permits(args) => verb::permits::run(&home, format, &args),
        Command::Drain(args) => verb::act::release(&home, format, "drain", &args),
        Command::Retire(args) => verb::act::release(&home, format, "retire", &args),
        Command::History(args) => verb::history::run(&home, format, &args),
        Command::Explain(args) => verb::explain::run(&home, format, &args),
        Command::Logs(args) => verb::logs::run(&home, &args).await,
        Command::Audit(args) => verb::audit::run(&home, format, &args).await,
        Command::Forget(args) => verb::act::forget(&home, format, &args),
        Command::Doctor(args) => verb::doctor::run(&home, format, &args).await,
        Command::Config(args) => verb::config::run(format, &args),
        Command::Demo(args) => demo::run(format, &args).await,
        Command::Bench(args) => verb::bench::run(format, &args).await,
        Command::BenchPart(args) => verb::bench::part(&args),
        Command::SampleAgent(args) => verb::sample_agent::run(args).await,
        Command::Completions { shell } => verb::completions::run(shell),
        Command::Man(args) => verb::man::run(&args),
        Command::Token(what) => verb::token::run(&home, format, &what),
        Command::Membership(what) => verb::membership::run(&home, format, &what),
        Command::Api(what) => verb::api::run(what),
        Command::Judge { dir } => verb::judge::run(format, &dir),
        Command::Versions => verb::process::versions(),
        Command::Dispatch(args) => verb::dispatch::run(&home, &args).await,
        Command::Gateway(args) => verb::process::gateway(&home, &args).await,
        Command::Controller(args) => verb::process::controller(&home, &args).await,
    }
}
