//! `segue completions`: what a shell needs to complete the command line.

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "segue", &mut script);
    output::raw(&script)?;
    Ok(Exit::Ok)
}
