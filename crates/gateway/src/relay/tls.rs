//! The caller's side of a TLS call: sealed bytes on the socket, plain ones in the relay.
//!
//! The keys live in the connection's state in this process, so such a call moves to no other one.
//! In all else it is relayed as plain calls are, by the same shard. What waits for its caller waits
//! sealed, in the buffer of the connection, which is bounded; while there is any, its worker is not
//! read.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use rustls::ServerConnection;

use crate::slots::EXTENT_BYTES;

/// Sealed bytes that may wait for a caller: all that may wait in a flow, and what sealing adds (22
/// bytes or so for each 16 KiB).
const SEALED_BYTES_MAX: usize = EXTENT_BYTES + 16 * 1024;

/// Whether more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Open,
    /// The peer said that nothing more comes.
    Ended,
}

/// Bounds a connection whose handshake is done, and takes what it has opened already.
pub(super) fn prepare(tls: &mut ServerConnection, opened: &mut Vec<u8>) -> io::Result<()> {
    tls.set_buffer_limit(Some(SEALED_BYTES_MAX));
    drain(tls, opened)
}

/// Opens what came from the socket.
///
/// # Errors
///
/// When it is no TLS; an alert then waits to be written.
pub(super) fn open(
    tls: &mut ServerConnection,
    mut sealed: &[u8],
    opened: &mut Vec<u8>,
) -> io::Result<Stream> {
    while !sealed.is_empty() {
        let taken = tls.read_tls(&mut sealed)?;
        let state = tls.process_new_packets();
        // What came before what is no TLS is the peer's.
        drain(tls, opened)?;
        let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        if state.peer_has_closed() {
            return Ok(Stream::Ended);
        }
        if taken == 0 {
            break;
        }
    }
    Ok(Stream::Open)
}

fn drain(tls: &mut ServerConnection, opened: &mut Vec<u8>) -> io::Result<()> {
    match tls.reader().read_to_end(opened) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        // Of a peer that ended without saying so; what it said before counts.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error),
    }
}

/// Seals bytes for the socket; nothing may wait there.
pub(super) fn seal(tls: &mut ServerConnection, bytes: &[u8]) -> io::Result<()> {
    tls.writer().write_all(bytes)
}

/// Writes sealed bytes until none are left or the socket takes no more.
pub(super) fn flush(tls: &mut ServerConnection, mut socket: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says that nothing more comes. True: it is on its way, or nobody can hear it.
pub(super) fn say_end(tls: &mut ServerConnection, socket: &TcpStream) -> bool {
    // Only the first one of a connection is sent.
    tls.send_close_notify();
    if flush(tls, socket).is_err() {
        forget(tls);
    }
    !tls.wants_write()
}

/// Throws away what waits to be written.
pub(super) fn forget(tls: &mut ServerConnection) {
    while tls.wants_write() && tls.write_tls(&mut io::sink()).is_ok() {}
}
