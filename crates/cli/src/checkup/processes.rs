//! Whether what should run runs, and what is left over.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use segue_controller::api::wire::{AgentView, StatusView};
use segue_controller::platform::process::Handle;

use super::{Findings, Patient};
use crate::home::Home;

/// Longest path of a Unix socket, without the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Restarts of a worker beyond which it is not a coincidence.
const RESTARTS_MAX: u32 = 5;

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("processes");
    let home = &patient.home;
    let socket = home.control_socket();
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        found.fail(
            format!(
                "{} is {bytes} bytes long; a socket's path may have {SOCKET_PATH_BYTES_MAX}",
                socket.display()
            ),
            "use a shorter --home",
        );
    }
    if !home.run().is_dir() {
        found.ok("nothing of Segue has run here yet");
        return found;
    }
    let runs = supervisor(home, &mut found);
    for name in ["controller", "gateway"] {
        process(home, name, runs, &mut found);
    }
    leftovers(home, &mut found);
    if let Some(status) = &patient.status {
        answers(status, &mut found);
    } else if is_running(home, "controller") {
        found.fail(
            "the controller runs and does not answer",
            "`segue logs controller` says why; end it, and `segue serve` starts another",
        );
    }
    found
}

/// Whether `segue serve` runs. It holds a lock as long as it lives.
fn supervisor(home: &Home, found: &mut Findings) -> bool {
    let runs = fs::File::open(home.path().join("serve.lock")).is_ok_and(|file| {
        flock(&file, FlockOperation::NonBlockingLockShared)
            .is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    });
    if runs {
        found.ok("`segue serve` runs");
    } else if is_running(home, "gateway") || is_running(home, "controller") {
        found.warn(
            "`segue serve` does not run, but what it started does: nothing starts it again when \
             it ends",
            "`segue serve` finds it again; `segue stop` ends it",
        );
    } else {
        found.ok("nothing runs; `segue serve` starts it");
    }
    runs
}

fn process(home: &Home, name: &str, supervised: bool, found: &mut Findings) {
    match Handle::adopt(&home.run().join(format!("{name}.json"))) {
        Ok(Some(handle)) => found.ok(format!("the {name} runs as process {}", handle.pid())),
        Ok(None) if supervised => found.fail(
            format!("the {name} does not run"),
            format!("`segue serve` keeps starting it; `segue logs {name}` says why it ends"),
        ),
        Ok(None) => {}
        Err(error) => found.warn(
            format!("whether the {name} runs cannot be told: {error}"),
            "run `segue doctor` as the user of `segue serve`",
        ),
    }
}

fn is_running(home: &Home, name: &str) -> bool {
    Handle::adopt(&home.run().join(format!("{name}.json"))).is_ok_and(|handle| handle.is_some())
}

fn leftovers(home: &Home, found: &mut Findings) {
    let socket = home.control_socket();
    if socket.exists() && !is_running(home, "controller") && UnixStream::connect(&socket).is_err() {
        found.ok(format!(
            "{} is left over from a controller; the next one replaces it",
            socket.display()
        ));
    }
    for entry in fs::read_dir(home.run()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("gateway-draining-") && has_ending(&entry.path(), "json") {
            match Handle::adopt(&entry.path()) {
                Ok(Some(handle)) => found.ok(format!(
                    "gateway process {} takes no new calls and ends with its last one",
                    handle.pid()
                )),
                _ => found.warn(
                    format!("{name}: a gateway that has ended is not forgotten yet"),
                    "`segue serve` forgets it; until then nothing it may hold calls of is retired",
                ),
            }
        }
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|is| is == ending)
}

/// What the running Segue says of itself.
fn answers(status: &StatusView, found: &mut Findings) {
    let ours = env!("CARGO_PKG_VERSION");
    if status.version == ours {
        found.ok(format!("the controller answers, version {ours}"));
    } else {
        found.warn(
            format!(
                "the controller is of version {}, this program of {ours}",
                status.version
            ),
            "`segue stop` and `segue serve` start the new one; see docs/guide/upgrading.md",
        );
    }
    if let Some(error) = &status.journal.error {
        found.fail(
            format!("the journal cannot be written: {error}"),
            "free the disk or the file; calls go on, and decisions wait until then",
        );
    }
    if !status.gateways.iter().any(|gateway| gateway.leased) {
        found.fail(
            "no gateway reports: new calls may be refused",
            "`segue logs gateway` says why",
        );
    }
    for gateway in status.gateways.iter().filter(|gateway| !gateway.leased) {
        let name = &gateway.gateway;
        found.warn(
            format!("{name} has not reported: its calls are unknown, and nothing is retired"),
            format!(
                "start it again, or if it is gone for good: `segue forget {name} --reason TEXT`"
            ),
        );
    }
    for agent in &status.agents {
        workers(agent, found);
    }
}

fn workers(agent: &AgentView, found: &mut Findings) {
    for release in &agent.releases {
        let serves = matches!(release.state.as_str(), "current" | "ramping");
        if serves && release.workers_ready < release.workers_want {
            found.fail(
                format!(
                    "{}: {} of {} workers of {} are up",
                    agent.name, release.workers_ready, release.workers_want, release.label
                ),
                format!("`segue logs {}` says why", release.label),
            );
        }
        for worker in &release.workers {
            if worker.state != "gone" && worker.restarts > RESTARTS_MAX {
                found.warn(
                    format!(
                        "{}: worker {} was started again {} times",
                        agent.name, worker.id, worker.restarts
                    ),
                    format!("`segue logs {} --worker {}`", release.label, worker.id),
                );
            }
        }
    }
}
