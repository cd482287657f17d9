//! The keeper of the gateways' calls, for as long as this supervisor lives.

use std::path::PathBuf;

use segue_gateway::keeper::{Keeper, census};

use crate::home::Home;

/// Where gateways find it.
pub(crate) fn socket(home: &Home) -> PathBuf {
    home.run().join("keeper.sock")
}

/// Starts it. `None`: calls flow all the same, and would end with their gateway.
pub(super) fn start(home: &Home) -> Option<Keeper> {
    Keeper::start(&socket(home))
        .inspect_err(|error| tracing::error!(%error, "calls are not kept: there is no keeper"))
        .ok()
}

/// Whether nothing in its keeping waits for the next gateway: what is left is in the hands of
/// gateways that run, and nobody loses anything when the keeping ends.
pub(super) async fn is_idle(home: &Home) -> bool {
    let socket = socket(home);
    let ask = move || !socket.exists() || census(&socket).is_ok_and(|has| has.orphaned == 0);
    tokio::task::spawn_blocking(ask).await.unwrap_or(false)
}
