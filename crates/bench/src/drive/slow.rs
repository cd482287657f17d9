//! Connections that say their request one byte at a time and never come to its end.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Drive;

/// Between two bytes of each connection.
const EVERY_NS: u64 = 1_000_000_000;

/// None, or a crowd of them.
#[derive(Debug, Default)]
pub(super) struct Slow {
    sockets: Vec<TcpStream>,
    due: u64,
    /// How often one was cut and came again.
    cut: u64,
}

impl Slow {
    pub(super) fn open(target: SocketAddr, connections: usize, now: u64) -> io::Result<Self> {
        let open = |_| {
            let mut socket = TcpStream::connect(target)?;
            socket.write_all(b"GET /call HTTP/1.1\r\nHost: ben")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets: io::Result<Vec<TcpStream>> = (0..connections).map(open).collect();
        Ok(Self {
            sockets: sockets?,
            due: now + EVERY_NS,
            cut: 0,
        })
    }

    pub(super) fn cut(&self) -> u64 {
        self.cut
    }
}

impl Drive {
    /// One byte more from each, when it is time; those that were cut come again.
    pub(super) fn drip(&mut self) -> io::Result<Option<u64>> {
        let wanted = self.slow.sockets.len();
        if wanted == 0 {
            return Ok(None);
        }
        let now = self.clock.now();
        if now >= self.slow.due {
            self.slow.sockets.retain_mut(|socket| {
                let open = match socket.read(&mut [0; 512]) {
                    Ok(_) => false,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
                open && socket.write_all(b"c").is_ok()
            });
            let gone = wanted - self.slow.sockets.len();
            let again = Slow::open(self.target, gone, now)?;
            self.slow.sockets.extend(again.sockets);
            self.slow.cut += gone as u64;
            self.slow.due = now + EVERY_NS;
        }
        Ok(Some(self.slow.due))
    }
}
