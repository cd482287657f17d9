//! The keeper of the gateways' calls, for as long as this supervisor lives.

use std::path::PathBuf;

use segue_gateway::keeper::Keeper;

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
