//! The socket to which workers of LiveKit connect, kept while the dispatcher behind it is started
//! again: they connect at once when it dies, and if nobody listens the next time is two seconds later.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that wait for the next dispatcher: most of a large fleet comes back at once. The
/// kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Door {
    listen: SocketAddr,
    socket: Arc<Mutex<Option<TcpListener>>>,
}

impl Door {
    pub(super) fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            socket: Arc::default(),
        }
    }

    /// For a dispatcher that is started. `None`: somebody else has the address, which may be a
    /// dispatcher that was there before us; who is started binds it and says what is wrong.
    pub(super) fn socket(&self) -> Option<OwnedFd> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if socket.is_none() {
            let bound = TcpListener::bind(self.listen).ok()?;
            rustix::net::listen(&bound, BACKLOG).ok()?;
            *socket = Some(bound);
        }
        let ours = socket.as_ref()?.try_clone().ok()?;
        Some(ours.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn it_stays_open_between_two_dispatchers() {
        let door = Door::at("127.0.0.1:0".parse().unwrap());
        let first = TcpListener::from(door.socket().unwrap());
        let addr = first.local_addr().unwrap();
        drop(first);
        let early = TcpStream::connect(addr).unwrap();
        let second = TcpListener::from(door.socket().unwrap());
        assert_eq!(second.local_addr().unwrap(), addr);
        let (_, from) = second.accept().unwrap();
        assert_eq!(from, early.local_addr().unwrap());
    }

    #[test]
    fn one_that_somebody_has_is_tried_again() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Door::at(other.local_addr().unwrap());
        assert!(door.socket().is_none());
        drop(other);
        assert!(door.socket().is_some());
    }
}
