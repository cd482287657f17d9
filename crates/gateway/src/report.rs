//! Who we are to the controller, and our reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::names::GatewayId;
use segue_core::presence::Presence;

use crate::clock;
use crate::ledger::Ledger;

/// Makes the reports, numbered in the order of what they show.
#[derive(Debug)]
pub(crate) struct Reporter {
    ledger: Arc<Ledger>,
    life: Mutex<Life>,
}

/// One life of a gateway. It goes on in the process that takes over.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) gateway: GatewayId,
    pub(crate) incarnation: String,
    pub(crate) sequence: u64,
}

/// Who a process is that gave its calls away and stays for those it could not give: the gateway of
/// the same name with its process id behind it.
pub fn id_after_handoff(gateway: &GatewayId, pid: u32) -> GatewayId {
    let suffix = format!(".{pid}");
    let room = segue_core::names::NAME_BYTES_MAX - suffix.len();
    let name: String = gateway.as_str().chars().take(room).collect();
    let name = format!("{name}{suffix}");
    name.parse().expect("a shortened name with digits")
}

impl Life {
    pub(crate) fn new(gateway: GatewayId) -> Self {
        Self {
            gateway,
            incarnation: uuid::Uuid::now_v7().to_string(),
            sequence: 0,
        }
    }

    /// The life of a process that gave its calls away and stays for those it could not give.
    pub(crate) fn after_handoff(&self) -> Self {
        Self::new(id_after_handoff(&self.gateway, std::process::id()))
    }
}

impl Reporter {
    pub(crate) fn new(ledger: Arc<Ledger>, life: Life) -> Self {
        Self {
            ledger,
            life: Mutex::new(life),
        }
    }

    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self) -> Presence {
        let mut life = self.life();
        life.sequence += 1;
        Presence {
            gateway: life.gateway.clone(),
            incarnation: life.incarnation.clone(),
            sequence: life.sequence,
            agents: self.ledger.snapshot(clock::now()),
        }
    }
}
