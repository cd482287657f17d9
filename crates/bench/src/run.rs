//! The director: round by round, target by target, each with everything fresh.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::BenchError;
use crate::crew::{Crew, Driver, Start};
use crate::drive::{DriveSpec, Order, Reply};
use crate::modes::Mode;
use crate::part::Part;
use crate::peers::{Programs, Proxy, Setting, Target, TlsFiles, free_address};
use crate::relay::Damage;
use crate::results::Results;
use crate::usage::Usage;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// In this order in each round.
    pub modes: Vec<Mode>,
    /// Interleaved: each round measures each of them once.
    pub targets: Vec<Target>,
    /// Where they are.
    pub programs: Programs,
    /// How often.
    pub rounds: usize,
    /// Length of a measured window.
    pub seconds: u64,
    /// How many calls, where a mode takes a number; empty: those that the mode has.
    pub calls: Vec<usize>,
    /// Length of the window with slow connections, instead of at least a minute.
    pub slow_seconds: Option<u64>,
    /// Callers speak TLS; names of figures say so.
    pub tls: bool,
    /// What the yardstick does wrong, to see that it is noticed.
    pub damage: Damage,
}

pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) crew: &'a Crew,
    dir: Folder,
    tls: Option<TlsFiles>,
    /// Of the proxy, and of generator and agents.
    cpus: [Option<usize>; 2],
}

/// Removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn make(path: PathBuf) -> Result<Self, BenchError> {
        fs::create_dir_all(&path).map_err(BenchError::Prepare)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the next cleaner's.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Measures everything, and says on the way how far it is.
///
/// The thread that calls this must not end before it returns: the processes end with it.
///
/// # Errors
///
/// [`BenchError::Stopped`] after [`Crew::stop`], and what cannot be prepared. A peer that fails is
/// a fault in the results instead.
pub fn run(options: &Options, crew: &Crew, say: &dyn Fn(&str)) -> Result<Results, BenchError> {
    let dir = std::env::temp_dir().join(format!("segue-bench-{}", std::process::id()));
    let dir = Folder::make(dir)?;
    let tls = options.tls.then(|| TlsFiles::make(&dir.0)).transpose()?;
    let bench = Bench {
        options,
        crew,
        dir,
        tls,
        cpus: cpus(),
    };
    let mut results = Results {
        prefix: if options.tls { "tls_" } else { "" },
        ..Results::default()
    };
    for target in &options.targets {
        if options.tls && !target.speaks_tls() {
            let name = target.name();
            let note = format!("{name} speaks no TLS here, and was not measured");
            results.notes.push(note);
            continue;
        }
        if options.programs.find(*target).is_some() {
            let version = options.programs.version(*target);
            results.targets.push((*target, version));
        } else {
            results.missing.push(*target);
        }
    }
    if bench.cpus[1].is_none() {
        let note = "one processor for everybody: the generator disturbs what it measures";
        results.notes.push(note.to_owned());
    }
    let targets: Vec<Target> = results.targets.iter().map(|(target, _)| *target).collect();
    say(&format!(
        "this takes about {}",
        minutes(takes(options, &targets))
    ));
    for round in 1..=options.rounds {
        for mode in &options.modes {
            for target in targets.iter().filter(|target| mode.is_due(**target, round)) {
                say(&format!(
                    "round {round} of {}: {} {}",
                    options.rounds,
                    mode.name(),
                    target.name()
                ));
                match mode.measure(&bench, *target, &mut results) {
                    Ok(()) => {}
                    Err(BenchError::Stopped) => return Err(BenchError::Stopped),
                    Err(error) => {
                        let fault = format!("{} {}: {error}", mode.name(), target.name());
                        say(&fault);
                        results.faults.push(fault);
                    }
                }
            }
        }
    }
    Ok(results)
}

/// About how long a run takes.
fn takes(options: &Options, targets: &[Target]) -> Duration {
    let each = |mode: &Mode| {
        let times = (1..=options.rounds).map(|round| {
            let due = targets.iter().filter(|target| mode.is_due(**target, round));
            due.count()
        });
        u32::try_from(times.sum::<usize>()).unwrap_or(u32::MAX) * mode.takes(options)
    };
    options.modes.iter().map(each).sum()
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    }
}

/// The first two that we may use.
fn cpus() -> [Option<usize>; 2] {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return [None; 2];
    };
    let mut ours = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    match (ours.next(), ours.next()) {
        (Some(proxy), Some(others)) => [Some(proxy), Some(others)],
        _ => [None; 2],
    }
}

/// One target with its generator and its agents.
pub(crate) struct Set {
    pub(crate) driver: Driver,
    pub(crate) proxy: Proxy,
    pub(crate) target: Target,
    backends: [std::net::SocketAddr; 2],
    // Ended before its folder goes.
    _echo: crate::crew::Started,
    dir: Folder,
}

impl Bench<'_> {
    pub(crate) fn set(&self, target: Target) -> Result<Set, BenchError> {
        let dir = Folder::make(self.dir.0.join(target.name()))?;
        let backends = [free_address()?, free_address()?];
        let mut echo = self.part(
            "agents",
            &dir.0,
            Part::Echo {
                listen: backends.to_vec(),
            },
        )?;
        for backend in backends {
            crate::peers::wait_until_listening(backend, &mut echo, self.crew)?;
        }
        let proxy = Proxy::start(target, &self.setting(&dir.0, backends))?;
        let driver = self.driver(&dir.0, "generator", proxy.addr, 0)?;
        Ok(Set {
            driver,
            proxy,
            target,
            backends,
            _echo: echo,
            dir,
        })
    }

    pub(crate) fn setting<'a>(
        &'a self,
        dir: &'a Path,
        backends: [std::net::SocketAddr; 2],
    ) -> Setting<'a> {
        Setting {
            crew: self.crew,
            programs: &self.options.programs,
            dir,
            cpu: self.cpus[0],
            backends,
            tls: self.tls.as_ref(),
            damage: self.options.damage,
        }
    }

    /// A generator; `nth` of those that run at once.
    pub(crate) fn driver(
        &self,
        dir: &Path,
        name: &str,
        target: std::net::SocketAddr,
        nth: u32,
    ) -> Result<Driver, BenchError> {
        let spec = DriveSpec {
            target,
            tls: self.tls.as_ref().map(|tls| tls.cert.clone()),
            first_number: nth << 28,
        };
        Ok(Driver::new(self.part(name, dir, Part::Drive(spec))?))
    }

    fn part(&self, name: &str, dir: &Path, part: Part) -> Result<crate::crew::Started, BenchError> {
        let start = Start {
            name,
            program: &self.options.programs.segue,
            dir,
            cpu: self.cpus[1],
            env: &[],
        };
        self.crew.start(&start, part)
    }
}

impl Set {
    /// What the proxy was started with.
    pub(crate) fn setting<'a>(&'a self, bench: &'a Bench<'_>) -> Setting<'a> {
        bench.setting(&self.dir.0, self.backends)
    }

    /// Where Segue keeps its state.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.0.join("home")
    }

    /// A second generator, with calls of its own.
    pub(crate) fn helper(&self, bench: &Bench<'_>) -> Result<Driver, BenchError> {
        bench.driver(&self.dir.0, "second", self.proxy.addr, 1)
    }

    /// What the proxy has used so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(&self.proxy.pids())
    }

    /// Has so many calls open, or says why not.
    pub(crate) fn open(&mut self, calls: usize) -> Result<Reply, BenchError> {
        let reply = self.driver.ask(Order::Open { calls })?;
        if reply.open < calls as u64 {
            let what = format!(
                "took {} of {calls} calls ({} failed, {} lost)",
                reply.open, reply.failed, reply.lost
            );
            let said = self
                .proxy
                .started
                .first()
                .map(|started| started.failure(&what));
            return Err(said.unwrap_or(BenchError::Part {
                name: self.target.name().to_owned(),
                what,
                said: String::new(),
            }));
        }
        Ok(reply)
    }
}
