//! Whether a binary is a segue that can take over from this one, found out by running it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use segue_gateway::handoff::Versions;
use tokio::process::Command;
use tokio::time::timeout;

use crate::exit::{Exit, Trouble};

/// How long it may take to say what it is. A machine may be busy; a program that waits for
/// something will not get it.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Goes with every refusal of a binary.
const HINT: &str = "nothing was changed, and calls go on; name another file with --binary";

/// A binary that answered.
pub(super) struct TriedOut {
    pub(super) versions: Versions,
}

/// Has it say its versions and check the configuration.
pub(super) async fn try_out(binary: &Path, config: &Path) -> Result<TriedOut, Trouble> {
    let shown = binary.display();
    let refused = |why: String| Trouble::new(Exit::Usage, format!("{shown} {why}"), HINT);
    let said = ask(binary, &["versions".as_ref()])
        .await
        .map_err(&refused)?;
    let versions = serde_json::from_slice(&said)
        .map_err(|_| refused("is no segue, or an early one that cannot be upgraded to".into()))?;
    let check = ["config".as_ref(), "check".as_ref(), config.as_os_str()];
    ask(binary, &check)
        .await
        .map_err(|why| refused(format!("does not take {}: it {why}", config.display())))?;
    Ok(TriedOut { versions })
}

async fn ask(binary: &Path, args: &[&std::ffi::OsStr]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(binary);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match timeout(ANSWER_MAX, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("cannot be run: {error}")),
        Err(_) => return Err(format!("did not answer for {} s", ANSWER_MAX.as_secs())),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    Err(format!("ended with {}: {first}", output.status))
}
