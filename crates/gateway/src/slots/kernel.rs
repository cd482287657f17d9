//! What the kernel has counted of a socket: the truth about bytes after a crash.
//!
//! A process that is killed between a read and the note of it cannot say what it did, but the
//! kernel can: bytes that came in order less those that still wait are what was read, and bytes
//! that the peer acknowledged plus those it did not yet are what was written. Handshakes and ends
//! of streams take a number of the sequence too. Those of the handshake are the same for ever, so
//! they vanish in a difference; those of the ends are taken out by the state of the connection.

use std::io;
use std::os::fd::AsFd;

use super::memory::{tcp_info, unacknowledged};

/// Readings that are taken before a socket is given up whose counts change under our eyes.
const READINGS_MAX: usize = 1_000;

/// TCP states, as the kernel numbers them.
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// Counts of one socket, each with an offset of its own that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Bytes that were read from it, modulo 2^32.
    pub(super) read: u32,
    /// Bytes that were written to it, modulo 2^32.
    pub(super) written: u32,
    /// Whether the connection is gone. Whether an end was counted then is not known, so either
    /// count may be one too high.
    pub(super) gone: bool,
}

impl Counts {
    /// Asks the kernel. Nobody may read or write the socket meanwhile; its peer may.
    pub(super) fn of(socket: &impl AsFd) -> io::Result<Self> {
        let socket = socket.as_fd();
        let mut before = tcp_info(socket)?;
        for _ in 0..READINGS_MAX {
            let waiting = rustix::io::ioctl_fionread(socket)?;
            let under_way = unacknowledged(socket)?;
            let after = tcp_info(socket)?;
            if before == after {
                let (state, received, acknowledged) = after;
                let their_end = matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT);
                let our_end = matches!(
                    state,
                    FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING | TIME_WAIT
                );
                let read = received
                    .wrapping_sub(waiting)
                    .wrapping_sub(u64::from(their_end));
                let written = acknowledged
                    .wrapping_add(u64::from(under_way))
                    .wrapping_sub(u64::from(our_end));
                return Ok(Self {
                    read: low(read),
                    written: low(written),
                    gone: state == CLOSE,
                });
            }
            before = after;
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "the counts of a socket do not stand still",
        ))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "differences of these counts are small, so the low half is enough"
)]
fn low(count: u64) -> u32 {
    count as u32
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    /// The two ends of one connection: the one that connected, the one that accepted.
    fn pair() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        [connected, accepted]
    }

    fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what} in time");
            std::thread::yield_now();
        }
    }

    fn since(socket: &TcpStream, base: Counts) -> (u32, u32) {
        let now = Counts::of(socket).unwrap();
        (
            now.read.wrapping_sub(base.read),
            now.written.wrapping_sub(base.written),
        )
    }

    #[test]
    fn the_kernel_knows_what_was_read_and_written() {
        for ours_is in [0, 1] {
            let ends = pair();
            let (mut ours, mut theirs) = (&ends[ours_is], &ends[1 - ours_is]);
            let base = Counts::of(ours).unwrap();
            theirs.write_all(&[1; 1_000]).unwrap();
            assert_eq!(since(ours, base), (0, 0));
            ours.read_exact(&mut [0; 300]).unwrap();
            assert_eq!(since(ours, base), (300, 0));
            ours.write_all(&vec![2; 70_000]).unwrap();
            assert_eq!(since(ours, base), (300, 70_000), "before it is read");
            theirs.read_exact(&mut vec![0; 70_000]).unwrap();
            assert_eq!(since(ours, base), (300, 70_000), "and after");
        }
    }

    #[test]
    fn ends_of_streams_are_not_bytes() {
        for ours_is in [0, 1] {
            let ends = pair();
            let (mut ours, mut theirs) = (&ends[ours_is], &ends[1 - ours_is]);
            let base = Counts::of(ours).unwrap();
            theirs.write_all(&[1; 1_000]).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let state = |socket: &TcpStream| tcp_info(socket.as_fd()).unwrap().0;
            soon("an end", || state(ours) == CLOSE_WAIT);
            assert_eq!(since(ours, base), (0, 0));
            ours.read_exact(&mut [0; 600]).unwrap();
            assert_eq!(since(ours, base), (600, 0));
            ours.read_exact(&mut [0; 400]).unwrap();
            assert_eq!(since(ours, base), (1_000, 0));
            assert_eq!(ours.read(&mut [0]).unwrap(), 0);
            assert_eq!(since(ours, base), (1_000, 0), "after the end was read");
        }
    }

    #[test]
    fn our_own_end_is_not_a_byte_before_and_after_it_is_acknowledged() {
        for ours_is in [0, 1] {
            let ends = pair();
            let (mut ours, mut theirs) = (&ends[ours_is], &ends[1 - ours_is]);
            let base = Counts::of(ours).unwrap();
            ours.write_all(&[2; 500]).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            assert_eq!(since(ours, base), (0, 500));
            let state = || tcp_info(ours.as_fd()).unwrap().0;
            soon("an acknowledgement", || state() == FIN_WAIT2);
            assert_eq!(since(ours, base), (0, 500));
            theirs.write_all(&[3; 40]).unwrap();
            ours.read_exact(&mut [0; 40]).unwrap();
            assert_eq!(since(ours, base), (40, 500));
        }
    }

    #[test]
    fn a_reset_is_seen_and_loses_no_count_of_reads() {
        for ours_is in [0, 1] {
            let ends = pair();
            let (mut ours, mut theirs) = (&ends[ours_is], &ends[1 - ours_is]);
            let base = Counts::of(ours).unwrap();
            theirs.write_all(&[1; 100]).unwrap();
            ours.read_exact(&mut [0; 60]).unwrap();
            rustix::net::sockopt::set_socket_linger(theirs, Some(Duration::ZERO)).unwrap();
            let mut ends = Vec::from(ends);
            drop(ends.remove(1 - ours_is));
            let ours = &ends[0];
            soon("a reset", || Counts::of(ours).unwrap().gone);
            assert_eq!(since(ours, base).0, 60);
        }
    }
}
