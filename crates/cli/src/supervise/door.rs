//! The socket to which workers of LiveKit connect, kept while the dispatcher behind it is started
//! again: they connect at once when it dies, and if nobody listens the next time is two seconds later.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that wait for the next dispatcher: most of a large fleet comes back at once. The
/// kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Mutex<Option<Socket>>>);

#[derive(Debug)]
struct Socket {
    /// As it was asked for; its port may be any.
    listen: SocketAddr,
    bound: TcpListener,
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Option<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a dispatcher that is started and is to listen there. `None`: somebody else has the
    /// address, which may be a dispatcher that was there before us; who is started binds it and says
    /// what is wrong.
    pub(super) fn socket(&self, listen: SocketAddr) -> Option<OwnedFd> {
        let mut socket = self.lock();
        if socket.as_ref().is_none_or(|is| is.listen != listen) {
            // First: the new address may be a wider one.
            *socket = None;
            let bound = TcpListener::bind(listen).ok()?;
            rustix::net::listen(&bound, BACKLOG).ok()?;
            *socket = Some(Socket { listen, bound });
        }
        let ours = socket.as_ref()?.bound.try_clone().ok()?;
        Some(ours.into())
    }

    /// Nobody is started again: only who still listens has it.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn it_stays_open_between_two_dispatchers() {
        let (door, any) = (Door::default(), "127.0.0.1:0".parse().unwrap());
        let first = TcpListener::from(door.socket(any).unwrap());
        let addr = first.local_addr().unwrap();
        drop(first);
        let early = TcpStream::connect(addr).unwrap();
        let second = TcpListener::from(door.socket(any).unwrap());
        assert_eq!(second.local_addr().unwrap(), addr);
        let (_, from) = second.accept().unwrap();
        assert_eq!(from, early.local_addr().unwrap());
    }

    #[test]
    fn one_that_somebody_has_is_tried_again() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let (door, addr) = (Door::default(), other.local_addr().unwrap());
        assert!(door.socket(addr).is_none());
        drop(other);
        assert!(door.socket(addr).is_some());
    }

    #[test]
    fn it_moves_with_the_configuration_and_closes() {
        let (door, any) = (Door::default(), "127.0.0.1:0".parse().unwrap());
        let first = TcpListener::from(door.socket(any).unwrap());
        let port = first.local_addr().unwrap().port();
        drop(first);
        let wider = TcpListener::from(door.socket(([0, 0, 0, 0], port).into()).unwrap());
        assert_eq!(wider.local_addr().unwrap(), ([0, 0, 0, 0], port).into());
        drop(wider);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        door.close();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
