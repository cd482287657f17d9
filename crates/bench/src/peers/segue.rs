//! Segue as it runs under `segue serve`, but for the controller: a gateway serves from the tables
//! that it has on disk, and its workers are our two agents.

use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{Proxy, Setting, wait_until_listening, write};
use crate::BenchError;
use crate::crew::Started;
use crate::part::Part;

/// Any digest will do.
const RELEASE: &str = "5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90";

/// Between two looks at something that is about to be there.
const POLL: Duration = Duration::from_millis(2);

/// More than there will be.
const CAPACITY: u32 = 100_000;

/// Starts a keeper, as the supervisor has one, and a gateway. What both use is what Segue uses.
pub(super) fn start(
    setting: &Setting<'_>,
    addr: SocketAddr,
    program: &Path,
) -> Result<Proxy, BenchError> {
    let command = prepare(setting, addr, program)?;
    let run = setting.dir.join("home/run");
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(&run).map_err(BenchError::Prepare)?;
    let socket = run.join("keeper.sock");
    let keeper = setting.spawn(
        "keeper",
        Part::Keeper {
            socket: socket.clone(),
        },
    )?;
    while !socket.exists() {
        setting.crew.wait(POLL)?;
    }
    let exec = Part::Exec {
        command: command.clone(),
    };
    let mut gateway = setting.spawn("segue", exec)?;
    wait_until_listening(addr, &mut gateway, setting.crew)?;
    Ok(Proxy {
        addr,
        started: vec![gateway, keeper],
        command,
    })
}

impl Proxy {
    /// Another gateway, in the place of one that is gone.
    pub(crate) fn again(&self, setting: &Setting<'_>) -> Result<Started, BenchError> {
        let command = self.command.clone();
        setting.spawn("segue-again", Part::Exec { command })
    }

    /// Another gateway, which takes everything from the one that runs.
    pub(crate) fn successor(&self, setting: &Setting<'_>) -> Result<Started, BenchError> {
        let socket = setting.dir.join("home/run/handoff.sock");
        let takeover = ["--takeover".to_owned(), socket.display().to_string()];
        let command = [self.command.clone(), takeover.to_vec()].concat();
        setting.spawn("segue-successor", Part::Exec { command })
    }
}

/// Writes configuration and tables, and answers the command line.
fn prepare(
    setting: &Setting<'_>,
    addr: SocketAddr,
    program: &Path,
) -> Result<Vec<String>, BenchError> {
    let home = setting.dir.join("home");
    fs::create_dir_all(home.join("gateway")).map_err(BenchError::Prepare)?;
    let tls = setting.tls.map_or_else(String::new, |tls| {
        let (cert, key) = (tls.cert.display(), tls.key.display());
        format!("[gateway.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n")
    });
    let config = format!(
        "[gateway]\nlisten = \"{addr}\"\n{tls}\n[agents.bench]\ncommand = [\"true\", \"{{port}}\"]\nworkers = 2\n"
    );
    let file = setting.dir.join("segue.toml");
    write(&file, &config)?;
    write(
        &home.join("gateway/tables.json"),
        &tables(setting.backends).to_string(),
    )?;
    Ok(vec![
        program.display().to_string(),
        "gateway".to_owned(),
        "--config".to_owned(),
        file.display().to_string(),
    ])
}

fn tables(backends: [SocketAddr; 2]) -> serde_json::Value {
    let worker = |addr: SocketAddr| {
        json!({
            "release": RELEASE,
            "addr": addr,
            "capacity": CAPACITY,
            "health_path": null,
        })
    };
    let [blue, green] = backends;
    json!({"format": 1, "tables": [{
        "agent": "bench",
        "epoch": 1,
        "salt": "bench",
        "split": [[RELEASE, 10_000]],
        "releases": {RELEASE: {"label": "bench", "takes_new_calls": true, "retiring": false}},
        "workers": {"blue": worker(blue), "green": worker(green)},
        // As `segue init` has it.
        "ingress": {
            "hosts": [],
            "path": "/",
            "call_id": [
                {"header": "x-call-id"},
                {"query": "call_id"},
                {"path": "/ws/{}"},
                {"form": "CallSid"},
                {"cookie": "segue_call"},
            ],
            "cohort": [],
            "caller": [{"header": "x-caller"}, {"form": "From"}],
            "tenant": [{"header": "x-tenant"}],
            "rules": [],
        },
        "stickiness": 300_000,
        "on_rollback": "stay",
        "rolled_back": [],
        "override_digest": null,
    }]})
}
