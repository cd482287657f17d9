//! Messages with descriptors on a Unix stream.
//!
//! A frame is eight bytes, which carry the descriptors, and then a body: length, kind and number of
//! descriptors, in four, one and three bytes, big-endian. The eight bytes are sent and received by one
//! call, so descriptors always belong to the frame they came with.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::messages::Message;
use super::{CALLS_PER_MESSAGE, Misfit};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Most descriptors of a frame.
pub(super) const FDS_MAX: usize = 2 * CALLS_PER_MESSAGE;

/// Longest frame. 64 calls under backpressure hold 64 KiB in each direction, as base64; a ledger
/// with all the pins it may have is about 100 MB.
const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Longest word of a side that nothing is known of yet.
pub(super) const GREETING_BYTES_MAX: usize = 16 * 1024;

/// What is read of a body at once: room is only made for what comes.
const READ_BYTES: usize = 256 * 1024;

/// How long one step may take while every call flows: a stuck peer only keeps new calls waiting.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long calls may stand still for a peer that is stuck. A jitter buffer of a phone covers this
/// barely; a handoff takes a tenth of it.
pub(super) const STILL_TIMEOUT: Duration = Duration::from_millis(250);

/// Why a handoff did not happen. The giver keeps serving.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// The other side is not there, or it broke off.
    #[error("the other gateway cannot be reached")]
    Io(#[from] io::Error),
    /// What came is not understood.
    #[error("the other gateway's message is not understood")]
    Json(#[from] serde_json::Error),
    /// The other side runs as another user.
    #[error("the other gateway runs as user {0}")]
    Stranger(u32),
    /// The folder of the socket can be entered by others.
    #[error("{folder} is open to other users (mode {mode:o})")]
    Open {
        /// Which one.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The two binaries do not fit.
    #[error(transparent)]
    Misfit(#[from] Box<Misfit>),
    /// The giver said no.
    #[error("the running gateway refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A message out of turn, or one that contradicts itself.
    #[error("the other gateway broke the protocol: {0}")]
    Protocol(&'static str),
}

impl HandoffError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::Misfit(_) => Some(Misfit::HINT.to_owned()),
            Self::Open { folder, .. } => Some(format!("chmod 700 {}", folder.display())),
            Self::Stranger(_) => Some("run both as the same user".to_owned()),
            Self::Io(_) | Self::Json(_) | Self::Protocol(_) => None,
        }
    }

    /// Whether the other side's end of the stream is closed.
    pub(super) fn is_end(&self) -> bool {
        let Self::Io(error) = self else { return false };
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        )
    }
}

pub(super) fn set_timeouts(stream: &UnixStream, timeout: Duration) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}

pub(super) fn send<T: Message>(
    mut stream: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), HandoffError> {
    let (kind, body) = message.to_body()?;
    let length = u32::try_from(body.len()).map_err(|_| HandoffError::Protocol("too long"))?;
    let count = u32::try_from(fds.len()).map_err(|_| HandoffError::Protocol("too many"))?;
    let mut prefix = [0; 8];
    prefix[..4].copy_from_slice(&length.to_be_bytes());
    prefix[4..].copy_from_slice(&count.to_be_bytes());
    // Descriptors are far fewer than 2^24.
    prefix[4] = kind;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(HandoffError::Protocol("too many descriptors"));
    }
    // The other side is woken once, with all of it there.
    let iov = [IoSlice::new(&prefix), IoSlice::new(&body)];
    let sent = rustix::net::sendmsg(stream, &iov, &mut ancillary, SendFlags::NOSIGNAL);
    let Some(sent) = sent.map_err(io::Error::from)?.checked_sub(prefix.len()) else {
        return Err(HandoffError::Protocol("a frame was cut"));
    };
    stream.write_all(&body[sent..])?;
    Ok(())
}

/// The next message, which must be there as a whole within the read timeout of the stream.
pub(super) fn receive<T: Message>(stream: &UnixStream) -> Result<(T, Vec<OwnedFd>), HandoffError> {
    receive_bounded(stream, FRAME_BYTES_MAX)
}

/// As [`receive`], of a message with at most so many bytes.
pub(super) fn receive_bounded<T: Message>(
    stream: &UnixStream,
    bytes_max: usize,
) -> Result<(T, Vec<OwnedFd>), HandoffError> {
    let patience = stream.read_timeout()?;
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut prefix = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut prefix)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(stream, &mut iov, &mut ancillary, flags);
    let bytes = received.map_err(io::Error::from)?.bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let [length @ .., kind, a, b, c] = prefix;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    let length = number(&length);
    if bytes != 8 || number(&[a, b, c]) != fds.len() || length > bytes_max {
        return Err(HandoffError::Protocol("a frame contradicts itself"));
    }
    let body = read_body(stream, length, deadline);
    stream.set_read_timeout(patience)?;
    Ok((T::of_body(kind, &body?)?, fds))
}

/// One deadline for all of it: a side that drips would have a timeout anew with each byte.
fn read_body(
    mut stream: &UnixStream,
    length: usize,
    deadline: Option<Instant>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    while body.len() < length {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
        }
        let had = body.len();
        body.resize(length.min(had + READ_BYTES), 0);
        match stream.read(&mut body[had..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => body.truncate(had + read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => body.truncate(had),
            Err(error) => return Err(error),
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;

    use super::super::messages::ToGiver;
    use super::*;

    #[test]
    fn who_drips_has_one_deadline_for_all_of_a_message() {
        let (mut slow, ours) = UnixStream::pair().unwrap();
        set_timeouts(&ours, Duration::from_millis(100)).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let dripping = std::thread::spawn(move || {
            slow.write_all(&[0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
            let mut bytes = 0;
            // Each byte would be in time for a timeout of its own.
            while bytes < 1_024 && slow.write_all(b" ").is_ok() {
                bytes += 1;
                if stopped.recv_timeout(Duration::from_millis(20)) != Err(RecvTimeoutError::Timeout)
                {
                    break;
                }
            }
            bytes
        });
        let error = receive::<ToGiver>(&ours).unwrap_err();
        assert!(matches!(error, HandoffError::Io(_)), "{error}");
        assert_eq!(
            ours.read_timeout().unwrap(),
            Some(Duration::from_millis(100))
        );
        drop((ours, stop));
        assert!(dripping.join().unwrap() < 1_024, "it was given up");
    }

    #[test]
    fn a_greeting_is_short() {
        let (mut other, ours) = UnixStream::pair().unwrap();
        let length = u32::try_from(GREETING_BYTES_MAX + 1).unwrap();
        other.write_all(&length.to_be_bytes()).unwrap();
        other.write_all(&[0; 4]).unwrap();
        let heard = receive_bounded::<ToGiver>(&ours, GREETING_BYTES_MAX);
        assert!(matches!(heard, Err(HandoffError::Protocol(_))), "{heard:?}");
    }
}
