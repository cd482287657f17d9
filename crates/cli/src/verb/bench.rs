//! `segue bench`: what a call costs here, and what it costs with other proxies.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use segue_bench::{BenchError, Crew, Damage, Mode, Options, Programs, Results, Target};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::{BenchArgs, BenchDamage, BenchMode, BenchPartArgs, BenchPeer, Format};
use crate::exit::{Exit, Trouble};
use crate::output;

/// One process of a run.
pub(crate) fn part(args: &BenchPartArgs) -> anyhow::Result<Exit> {
    let spec = serde_json::from_str(&args.spec).context("that is no part of a bench")?;
    segue_bench::run_part(spec, |socket| {
        segue_gateway::descriptors::make_room();
        let _keeper = segue_gateway::keeper::Keeper::start(socket)?;
        loop {
            std::thread::park();
        }
    })?;
    Ok(Exit::Ok)
}

pub(crate) async fn run(format: Format, args: &BenchArgs) -> anyhow::Result<Exit> {
    let options = options(args)?;
    let crew = Crew::default();
    let (done, results) = oneshot::channel();
    let ours = crew.clone();
    // Not a task: the processes end with the thread that started them.
    let director = std::thread::Builder::new()
        .name("director".to_owned())
        .spawn(move || {
            let said = segue_bench::run(&options, &ours, &|text| {
                output::say(&format!("bench: {text}"));
            });
            // Nobody listens only if the program ends.
            let _ = done.send(said);
        })?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut results = results;
    let results = tokio::select! {
        results = &mut results => results,
        _ = interrupt.recv() => { crew.stop(); results.await }
        _ = terminate.recv() => { crew.stop(); results.await }
    };
    let joined = director.join();
    match results {
        Ok(Ok(results)) => {
            if let Some(dir) = &args.save {
                save(dir, &results)
                    .with_context(|| format!("results cannot be kept in {}", dir.display()))?;
            }
            Ok(tell(format, &results))
        }
        Ok(Err(BenchError::Stopped)) => {
            output::say("bench: interrupted; everything it started is stopped");
            Ok(Exit::Interrupted)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let _ = joined;
            anyhow::bail!("the bench broke off")
        }
    }
}

fn save(dir: &Path, results: &Results) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("table.md"), results.table() + "\n")?;
    let lines = format!("{}\n{}\n", results.details(), results.medians());
    std::fs::write(dir.join("results.json"), lines)
}

fn tell(format: Format, results: &Results) -> Exit {
    if format == Format::Table {
        output::line(&results.table());
    } else {
        output::data(format, &results.details(), String::new);
        output::data(format, &results.medians(), String::new);
    }
    let _ = std::io::stdout().flush();
    for fault in &results.faults {
        output::say(&format!("bench: {fault}"));
    }
    if results.is_clean() {
        Exit::Ok
    } else {
        Exit::Failed
    }
}

fn options(args: &BenchArgs) -> anyhow::Result<Options> {
    let programs = Programs {
        segue: std::env::current_exe().context("this program cannot be found")?,
        gateway: args.gateway.clone(),
        haproxy: args.haproxy.clone(),
        nginx: args.nginx.clone(),
        envoy: args.envoy.clone(),
        sozu: args.sozu.clone(),
    };
    let peers = match &args.against {
        Some(peers) => peers.clone(),
        None if args.tls => vec![BenchPeer::Haproxy],
        None => BenchPeer::ALL.to_vec(),
    };
    let peers: Vec<Target> = peers.into_iter().map(target).collect();
    if args.against.is_some() {
        let missing = peers.iter().find(|peer| programs.find(**peer).is_none());
        if let Some(missing) = missing {
            let name = missing.name();
            let message = format!("{name} is not installed");
            let hint = format!("install it, name it with --{name} PROGRAM, or leave it out");
            return Err(Trouble::new(Exit::Usage, message, &hint).into());
        }
    }
    let all = [
        BenchMode::Idle,
        BenchMode::Load,
        BenchMode::Rate,
        BenchMode::Handoff,
        BenchMode::Crash,
        BenchMode::Slow,
    ];
    let modes = if args.modes.is_empty() {
        all.to_vec()
    } else {
        args.modes.clone()
    };
    Ok(Options {
        modes: modes.into_iter().map(mode).collect(),
        targets: [vec![Target::Segue], peers].concat(),
        programs,
        rounds: args.rounds as usize,
        seconds: u64::from(args.seconds),
        slow_seconds: args.slow_seconds.map(u64::from),
        calls: args.calls.iter().map(|calls| *calls as usize).collect(),
        tls: args.tls,
        damage: match args.damage {
            BenchDamage::None => Damage::None,
            BenchDamage::Flip => Damage::Flip,
            BenchDamage::Drop => Damage::Drop,
            BenchDamage::Twice => Damage::Twice,
            BenchDamage::Cut => Damage::Cut,
        },
    })
}

impl BenchPeer {
    const ALL: [Self; 6] = [
        Self::Haproxy,
        Self::Nginx,
        Self::Envoy,
        Self::Sozu,
        Self::Relay,
        Self::Direct,
    ];
}

fn target(peer: BenchPeer) -> Target {
    match peer {
        BenchPeer::Haproxy => Target::Haproxy,
        BenchPeer::Nginx => Target::Nginx,
        BenchPeer::Envoy => Target::Envoy,
        BenchPeer::Sozu => Target::Sozu,
        BenchPeer::Relay => Target::Relay,
        BenchPeer::Direct => Target::Direct,
    }
}

fn mode(mode: BenchMode) -> Mode {
    match mode {
        BenchMode::Load => Mode::Load,
        BenchMode::Rate => Mode::Rate,
        BenchMode::Idle => Mode::Idle,
        BenchMode::Handoff => Mode::Handoff,
        BenchMode::Crash => Mode::Crash,
        BenchMode::Slow => Mode::Slow,
    }
}
