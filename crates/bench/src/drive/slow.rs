//! Connections that say their request one byte at a time and never come to its end.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::Drive;

/// Between two bytes of each connection.
const EVERY_NS: u64 = 1_000_000_000;

/// Turns of a round: they are strangers to each other, and do not all speak at once.
const TURNS: u64 = 100;

/// None, or a crowd of them.
#[derive(Debug, Default)]
pub(super) struct Slow {
    sockets: Vec<TcpStream>,
    /// Whose turn it is.
    next: usize,
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
        let open = |_| begin(target);
        self.sockets = (0..connections).map(open).collect::<io::Result<_>>()?;
        (self.next, self.due) = (0, now + EVERY_NS / TURNS);
        Ok(())
    }

    pub(super) fn cut(&self) -> u64 {
        self.cut
    }
}

/// The beginning of a request.
fn begin(target: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(target)?;
    socket.write_all(b"GET /call HTTP/1.1\r\nHost: ben")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Drive {
    /// One byte more from those whose turn it is; those that were cut come again.
    pub(super) fn drip(&mut self) -> io::Result<Option<u64>> {
        let slow = &mut self.slow;
        let all = slow.sockets.len();
        if all == 0 {
            return Ok(None);
        }
        let now = self.clock.now();
        if now >= slow.due {
            let turns = usize::try_from(TURNS).expect("a few");
            for _ in 0..all.div_ceil(turns) {
                let place = slow.next % all;
                slow.next = place + 1;
                let socket = &mut slow.sockets[place];
                let open = match socket.read(&mut [0; 512]) {
                    Ok(_) => false,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                };
                if !(open && socket.write_all(b"c").is_ok()) {
                    *socket = begin(self.target)?;
                    slow.cut += 1;
                }
            }
            slow.due = now + EVERY_NS / TURNS;
        }
        Ok(Some(slow.due))
    }
}
