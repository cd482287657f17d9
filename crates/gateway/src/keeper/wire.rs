//! Messages between a gateway and its keeper.
//!
//! A message is one record of at most 65 little-endian words: kind and count in the first one, and
//! then what the kind says. Descriptors travel beside it. The socket keeps the bounds of records
//! (`SOCK_SEQPACKET`), so a record is sent whole or not at all: a gateway that must not wait need
//! not remember where it stopped, and no bad record spoils the one behind it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Version of what is said. A gateway that speaks another one is served by nobody.
pub const KEEPER_VERSION: u64 = 1;

/// Calls in one record: two descriptors each, and the kernel takes at most 253 in a message.
pub(crate) const CALLS_PER_RECORD: usize = 64;

/// Calls in one record of an orphaned ward, which names the ward too.
pub(super) const ORPHANS_PER_RECORD: usize = CALLS_PER_RECORD - 1;

/// Most descriptors of a record.
const FDS_MAX: usize = 2 * CALLS_PER_RECORD;

/// Longest record.
const RECORD_BYTES_MAX: usize = 8 * (CALLS_PER_RECORD + 1);

/// A ward: what one gateway process has given into keeping. No two ever have the same number, not
/// even at two keepers.
pub type WardId = u64;

/// A call of a ward: the number of its slot in the memory of the ward, and the generation of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// The slot.
    pub slot: u32,
    /// Which call in this slot: it counts up.
    pub generation: u32,
}

/// What a gateway says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToKeeper {
    /// The first word.
    Hello { version: u64 },
    /// Asks for the orphaned wards.
    Claim,
    /// Begins its own ward. Comes with its memory and its listener, as far as it has them.
    Open { memory: bool, listener: bool },
    /// Comes with two descriptors for each: caller, worker.
    Hold(Vec<CallKey>),
    /// These have ended.
    Release(Vec<CallKey>),
    /// The calls of these wards are in ours now: they are dropped, and ours counts.
    Own(Vec<WardId>),
    /// Its listener is closed.
    Unlisten,
    /// Whether it wants to hear of wards that are orphaned.
    Watch(bool),
    /// Its calls are another gateway's, who takes the ward when it is ready.
    Give,
    /// It ends in order, with no calls left.
    Bye,
    /// Asks for the figures.
    Census,
}

/// What a keeper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToGateway {
    /// The answer to [`ToKeeper::Hello`], with the number its ward will have.
    Welcome { version: u64, ward: WardId },
    /// The keeper speaks only this version.
    Refused { version: u64 },
    /// An orphaned ward; comes with its memory and its listener, as far as it has them.
    Orphan {
        ward: WardId,
        memory: bool,
        listener: bool,
    },
    /// Calls of that ward; comes with two descriptors for each.
    Calls { ward: WardId, calls: Vec<CallKey> },
    /// Those were all orphaned wards.
    Claimed { wards: u64 },
    /// These calls could not be kept, for want of descriptors.
    Unheld(Vec<CallKey>),
    /// A ward was orphaned.
    Orphaned,
    /// See [`Figures`].
    Figures(Figures),
}

/// What a keeper holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls of gateways that run.
    pub held: u64,
    /// Calls of gateways that died, and that nobody has taken back yet.
    pub orphaned: u64,
    /// Calls that could not be kept for want of descriptors, ever.
    pub unheld: u64,
    /// Gateways that keep their calls here.
    pub gateways: u64,
}

/// A record on its way.
#[derive(Debug)]
pub(super) struct Record {
    bytes: [u8; RECORD_BYTES_MAX],
    length: usize,
}

impl Record {
    /// One of a kind with these words behind it.
    pub(super) fn new(kind: u32, words: impl IntoIterator<Item = u64>) -> Self {
        let mut record = Self {
            bytes: [0; RECORD_BYTES_MAX],
            length: 8,
        };
        for word in words.into_iter().take(CALLS_PER_RECORD) {
            record.bytes[record.length..record.length + 8].copy_from_slice(&word.to_le_bytes());
            record.length += 8;
        }
        let count = u32::try_from(record.length / 8 - 1).expect("at most 64");
        record.bytes[..4].copy_from_slice(&kind.to_le_bytes());
        record.bytes[4..8].copy_from_slice(&count.to_le_bytes());
        record
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Its kind and its words. `None`: it contradicts itself.
    fn read(bytes: &[u8]) -> Option<(u32, Vec<u64>)> {
        let (kind, rest) = bytes.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (words, odd) = rest.as_chunks();
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        (odd.is_empty() && words.len() == count).then(|| (u32::from_le_bytes(*kind), words))
    }
}

fn word(call: CallKey) -> u64 {
    u64::from(call.slot) << 32 | u64::from(call.generation)
}

fn call(word: u64) -> CallKey {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked");
    CallKey {
        slot: half(word >> 32),
        generation: half(word),
    }
}

fn calls(words: &[u64]) -> Vec<CallKey> {
    words.iter().map(|word| call(*word)).collect()
}

/// Both directions of the conversation.
pub(super) trait Message: Sized {
    fn record(&self) -> Record;
    /// `None`: not understood.
    fn of(kind: u32, words: &[u64]) -> Option<Self>;
}

/// The record of calls to be held or released, without a list on the way.
pub(super) fn hold(calls: impl IntoIterator<Item = CallKey>) -> Record {
    Record::new(4, calls.into_iter().map(word))
}

/// See [`hold`].
pub(super) fn release(calls: impl IntoIterator<Item = CallKey>) -> Record {
    Record::new(5, calls.into_iter().map(word))
}

impl Message for ToKeeper {
    fn record(&self) -> Record {
        match self {
            Self::Hello { version } => Record::new(1, [*version]),
            Self::Claim => Record::new(2, []),
            Self::Open { memory, listener } => {
                Record::new(3, [u64::from(*memory), u64::from(*listener)])
            }
            Self::Hold(calls) => hold(calls.iter().copied()),
            Self::Release(calls) => release(calls.iter().copied()),
            Self::Own(wards) => Record::new(6, wards.iter().copied()),
            Self::Unlisten => Record::new(7, []),
            Self::Watch(wanted) => Record::new(8, [u64::from(*wanted)]),
            Self::Give => Record::new(9, []),
            Self::Bye => Record::new(10, []),
            Self::Census => Record::new(11, []),
        }
    }

    fn of(kind: u32, words: &[u64]) -> Option<Self> {
        Some(match (kind, words) {
            (1, [version]) => Self::Hello { version: *version },
            (2, []) => Self::Claim,
            (3, [memory @ 0..=1, listener @ 0..=1]) => Self::Open {
                memory: *memory == 1,
                listener: *listener == 1,
            },
            (4, words) => Self::Hold(calls(words)),
            (5, words) => Self::Release(calls(words)),
            (6, wards) => Self::Own(wards.to_vec()),
            (7, []) => Self::Unlisten,
            (8, [wanted @ 0..=1]) => Self::Watch(*wanted == 1),
            (9, []) => Self::Give,
            (10, []) => Self::Bye,
            (11, []) => Self::Census,
            _ => return None,
        })
    }
}

impl Message for ToGateway {
    fn record(&self) -> Record {
        match self {
            Self::Welcome { version, ward } => Record::new(101, [*version, *ward]),
            Self::Refused { version } => Record::new(102, [*version]),
            Self::Orphan {
                ward,
                memory,
                listener,
            } => Record::new(103, [*ward, u64::from(*memory), u64::from(*listener)]),
            Self::Calls { ward, calls } => {
                let calls = calls.iter().map(|call| word(*call));
                Record::new(104, std::iter::once(*ward).chain(calls))
            }
            Self::Claimed { wards } => Record::new(105, [*wards]),
            Self::Unheld(calls) => Record::new(106, calls.iter().map(|call| word(*call))),
            Self::Orphaned => Record::new(107, []),
            Self::Figures(figures) => {
                let Figures {
                    held,
                    orphaned,
                    unheld,
                    gateways,
                } = *figures;
                Record::new(108, [held, orphaned, unheld, gateways])
            }
        }
    }

    fn of(kind: u32, words: &[u64]) -> Option<Self> {
        Some(match (kind, words) {
            (101, [version, ward]) => Self::Welcome {
                version: *version,
                ward: *ward,
            },
            (102, [version]) => Self::Refused { version: *version },
            (103, [ward, memory @ 0..=1, listener @ 0..=1]) => Self::Orphan {
                ward: *ward,
                memory: *memory == 1,
                listener: *listener == 1,
            },
            (104, [ward, words @ ..]) => Self::Calls {
                ward: *ward,
                calls: calls(words),
            },
            (105, [wards]) => Self::Claimed { wards: *wards },
            (106, words) => Self::Unheld(calls(words)),
            (107, []) => Self::Orphaned,
            (108, [held, orphaned, unheld, gateways]) => Self::Figures(Figures {
                held: *held,
                orphaned: *orphaned,
                unheld: *unheld,
                gateways: *gateways,
            }),
            _ => return None,
        })
    }
}

/// Sends a record, whole or not at all, and never waits: [`io::ErrorKind::WouldBlock`] if the
/// other side does not read.
pub(super) fn send(socket: &impl AsFd, record: &Record, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let iov = [IoSlice::new(record.bytes())];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::net::sendmsg(socket, &iov, &mut ancillary, flags) {
        Ok(_) => Ok(()),
        // So many descriptors are on their way already: until the other side has read some.
        Err(Errno::TOOMANYREFS | Errno::NOBUFS) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// What came.
#[derive(Debug)]
pub(super) struct Received<M> {
    pub(super) message: M,
    pub(super) fds: Vec<OwnedFd>,
}

/// Takes the next record and never waits. `None`: the other side has closed.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] if there is none, and [`io::ErrorKind::InvalidData`] for one that
/// is not understood; its descriptors are closed. Descriptors may be missing, from the last one on:
/// this process may have no room for them.
pub(super) fn receive<M: Message>(socket: &impl AsFd) -> io::Result<Option<Received<M>>> {
    let mut bytes = [0; RECORD_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut iov, &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let whole = !received.flags.contains(ReturnFlags::TRUNC);
    let message = Record::read(&bytes[..received.bytes])
        .filter(|_| whole)
        .and_then(|(kind, words)| M::of(kind, &words));
    match message {
        Some(message) => Ok(Some(Received { message, fds })),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What either side makes of a record that is none of ours: what is understood is said the same
/// again. See [`crate::fuzz`].
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    fn again<M: Message + PartialEq + std::fmt::Debug>(kind: u32, words: &[u64]) {
        let Some(message) = M::of(kind, words) else {
            return;
        };
        let record = message.record();
        let (kind, words) = Record::read(record.bytes()).expect("we wrote it");
        assert_eq!(M::of(kind, &words), Some(message));
    }
    // No longer record is received.
    let bytes = &bytes[..bytes.len().min(RECORD_BYTES_MAX)];
    if let Some((kind, words)) = Record::read(bytes) {
        again::<ToKeeper>(kind, &words);
        again::<ToGateway>(kind, &words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<M: Message>(message: &M) -> Option<M> {
        let record = message.record();
        let (kind, words) = Record::read(record.bytes())?;
        M::of(kind, &words)
    }

    #[test]
    fn what_is_said_is_heard() {
        let call = CallKey {
            slot: u32::MAX,
            generation: 7,
        };
        for message in [
            ToKeeper::Hello { version: 1 },
            ToKeeper::Claim,
            ToKeeper::Open {
                memory: true,
                listener: false,
            },
            ToKeeper::Hold(vec![call; CALLS_PER_RECORD]),
            ToKeeper::Release(vec![call]),
            ToKeeper::Own(vec![u64::MAX, 0]),
            ToKeeper::Unlisten,
            ToKeeper::Watch(true),
            ToKeeper::Give,
            ToKeeper::Bye,
            ToKeeper::Census,
        ] {
            assert_eq!(again(&message).as_ref(), Some(&message));
        }
        for message in [
            ToGateway::Welcome {
                version: 1,
                ward: 2,
            },
            ToGateway::Refused { version: 9 },
            ToGateway::Orphan {
                ward: 3,
                memory: true,
                listener: true,
            },
            ToGateway::Calls {
                ward: 4,
                calls: vec![call; ORPHANS_PER_RECORD],
            },
            ToGateway::Claimed { wards: 2 },
            ToGateway::Unheld(vec![call; CALLS_PER_RECORD]),
            ToGateway::Orphaned,
            ToGateway::Figures(Figures {
                held: 1,
                orphaned: 2,
                unheld: 3,
                gateways: 4,
            }),
        ] {
            assert_eq!(again(&message).as_ref(), Some(&message));
        }
    }

    #[test]
    fn records_that_contradict_themselves_are_not_understood() {
        let record = ToKeeper::Hello { version: 1 }.record();
        let whole = record.bytes();
        let mut counts_more = whole.to_vec();
        counts_more[4] = 2;
        let mut strange = whole.to_vec();
        strange[0] = 99;
        for bytes in [&[][..], &whole[..7], &whole[..15], &counts_more] {
            assert_eq!(Record::read(bytes), None, "{bytes:?}");
        }
        let (kind, words) = Record::read(&strange).unwrap();
        assert_eq!(ToKeeper::of(kind, &words), None);
        assert_eq!(ToKeeper::of(3, &[2, 0]), None);
    }
}
