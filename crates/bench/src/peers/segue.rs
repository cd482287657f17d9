//! Segue as it runs under `segue serve`, but for the controller: a gateway serves from the tables
//! that it has on disk, and its workers are our two agents.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

use super::{Setting, write};
use crate::BenchError;

/// Any digest will do.
const RELEASE: &str = "5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90e5e90";

/// More than there will be.
const CAPACITY: u32 = 100_000;

/// Writes configuration and tables, and answers the command line.
pub(super) fn command(
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
