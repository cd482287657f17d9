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
    /// Another crowd, or none, in the place of this one.
    pub(super) fn replace(
        &mut self,
        target: SocketAddr,
        connections: usize,
        now: u64,
    ) -> io::Result<()> {
        self.sockets.clear();
        self.open(target, connections)?;
        self.due = now + EVERY_NS;
        Ok(())
    }

    fn open(&mut self, target: SocketAddr, connections: usize) -> io::Result<()> {
        for _ in 0..connections {
            let mut socket = TcpStream::connect(target)?;
            socket.write_all(b"GET /call HTTP/1.1\r\nHost: ben")?;
            socket.set_nonblocking(true)?;
            self.sockets.push(socket);
        }
        Ok(())
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
            self.slow.open(self.target, gone)?;
            self.slow.cut += gone as u64;
            self.slow.due = now + EVERY_NS;
        }
        Ok(Some(self.slow.due))
    }
}
