//! Free ports of loopback.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Tries to find a port that none of ours has. The kernel draws from some 28 000.
const TRIES_MAX: usize = 64;

/// Ports that were given to workers which may not have bound them yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

/// A port that is given to one worker until it is dropped.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    ports: Ports,
}

impl Ports {
    /// Finds a free one. Somebody else may take it before the worker does: then the worker ends,
    /// and is started again with another.
    pub(super) fn pick(&self) -> io::Result<Port> {
        for _ in 0..TRIES_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let number = listener.local_addr()?.port();
            if self.change(|ports| ports.insert(number)) {
                return Ok(self.hold(number));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free port was found",
        ))
    }

    /// Notes one that an adopted worker has.
    pub(super) fn adopt(&self, number: u16) -> Port {
        self.change(|ports| ports.insert(number));
        self.hold(number)
    }

    fn hold(&self, number: u16) -> Port {
        let ports = self.clone();
        Port { number, ports }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<u16>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let number = self.number;
        self.ports.change(|ports| ports.remove(&number));
    }
}
