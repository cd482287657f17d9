//! The processes that a run is made of.
//!
//! Each is this program again. It ends with the director, whatever becomes of that; and it is
//! pinned and given its descriptors before it begins, or before it becomes the peer that is measured.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::drive::{self, DriveSpec};
use crate::echo;
use crate::relay::{self, Damage};

/// How exact the generator's timer is. The kernel would else be free to be 50 µs late.
const TIMER_SLACK_NS: u64 = 1_000;

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartSpec {
    /// On this processor, unless there is only one.
    pub cpu: Option<usize>,
    /// What it is.
    pub part: Part,
}

/// What a process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The generator.
    Drive(DriveSpec),
    /// The agents.
    Echo {
        /// One for each.
        listen: Vec<SocketAddr>,
    },
    /// The yardstick.
    Relay {
        /// Where calls come in.
        listen: SocketAddr,
        /// The agents.
        backends: Vec<SocketAddr>,
        /// What it is to do wrong.
        damage: Damage,
    },
    /// What holds the calls of a gateway that is killed.
    Keeper {
        /// Where gateways find it.
        socket: PathBuf,
    },
    /// Another program in our place.
    Exec {
        /// Its name and arguments.
        command: Vec<String>,
    },
}

/// Runs until the director ends, or there is an error. `keep` is the keeper, which is part of what
/// is measured and not of this crate.
///
/// # Errors
///
/// What the operating system refuses.
pub fn run(spec: PartSpec, keep: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    // The thread that started us is the one that waits for us.
    let signal = match spec.part {
        // One with workers of its own has to end them.
        Part::Exec { .. } => Signal::TERM,
        _ => Signal::KILL,
    };
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all)?;
    if let Some(cpu) = spec.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    match spec.part {
        Part::Drive(spec) => {
            rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS))?;
            drive::run(&spec)
        }
        Part::Echo { listen } => echo::run(&listen),
        Part::Relay {
            listen,
            backends,
            damage,
        } => relay::run(listen, backends, damage),
        Part::Keeper { socket } => keep(&socket),
        Part::Exec { command } => {
            let (program, args) = command
                .split_first()
                .ok_or_else(|| io::Error::other("no command"))?;
            Err(Command::new(program).args(args).exec())
        }
    }
}
