//! One call of the generator.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::stats::{End, Stats};
use super::transport::{Identity, Transport};
use crate::poller::{EventFlags, is_passing};
use crate::wire::{self, Echo, PAYLOAD_BYTES};

/// A frame that comes back later than this is heard as a gap: three frames.
pub(super) const LATE_NS: u64 = 60_000_000;

/// Reads for one event, so that one call cannot keep the others waiting.
const READS_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request is under way.
    Asking,
    /// The first frame is under way.
    Trying,
    /// It has been there and back.
    Open,
    /// We have said goodbye.
    Closing,
}

/// How long it takes, or that it talks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Until it is told otherwise.
    Long,
    /// One frame there and back, and goodbye.
    Brief,
}

/// When a call's frames should be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// When the first one is due.
    pub(super) first: u64,
    /// Which one that is.
    pub(super) base: u32,
    pub(super) period: u64,
}

impl Schedule {
    /// When a frame should be sent; none before the base.
    fn due(&self, sequence: u32) -> u64 {
        self.first + u64::from(sequence - self.base) * self.period
    }
}

/// See the module.
pub(super) struct Call {
    number: u32,
    kind: Kind,
    stage: Stage,
    transport: Transport,
    /// The beginning of a head or frame that is not whole yet.
    input: Vec<u8>,
    /// Which frame is sent next.
    next: u32,
    /// Which one should come next.
    expected: u32,
    schedule: Option<Schedule>,
    dialled: u64,
    /// When the last frame came.
    heard: u64,
    /// The longest time without a frame since the last mark.
    gap: u64,
}

impl Call {
    pub(super) fn dial(
        number: u32,
        brief: bool,
        target: SocketAddr,
        identity: Option<&Identity>,
        now: u64,
    ) -> io::Result<Self> {
        let mut transport = Transport::dial(target, identity)?;
        transport.write(&wire::request(number))?;
        Ok(Self {
            number,
            kind: if brief { Kind::Brief } else { Kind::Long },
            stage: Stage::Asking,
            transport,
            input: Vec::new(),
            next: 0,
            expected: 0,
            schedule: None,
            dialled: now,
            heard: now,
            gap: 0,
        })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        self.transport.socket()
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether it sends by a schedule.
    pub(super) fn flows(&self) -> bool {
        self.schedule.is_some() && self.stage == Stage::Open
    }

    pub(super) fn is_brief(&self) -> bool {
        self.kind == Kind::Brief
    }

    /// Frames that have not come back.
    pub(super) fn owed(&self) -> u32 {
        self.next - self.expected
    }

    /// How long each frame of the schedule has been due that has not come back.
    pub(super) fn waits(&self, now: u64) -> impl Iterator<Item = u64> {
        let schedule = self.schedule.into_iter();
        schedule.flat_map(move |schedule| {
            let owed = self.expected.max(schedule.base)..self.next;
            owed.map(move |sequence| now.saturating_sub(schedule.due(sequence)))
        })
    }

    pub(super) fn interest(&self) -> EventFlags {
        let mut want = EventFlags::IN;
        want.set(EventFlags::OUT, self.transport.wants_write());
        want
    }

    /// The longest time without a frame since the last mark, the one that lasts included.
    pub(super) fn gap(&self, now: u64) -> u64 {
        self.gap.max(now.saturating_sub(self.heard))
    }

    pub(super) fn mark(&mut self) {
        self.gap = 0;
    }

    /// From now on frames are due by this schedule, whose base is the next one.
    pub(super) fn begin(&mut self, first: u64, period: u64, now: u64) {
        self.schedule = Some(Schedule {
            first,
            base: self.next,
            period,
        });
        self.heard = now;
    }

    /// Sends the next frame.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, stats: &mut Stats) -> io::Result<()> {
        out.clear();
        wire::masked_frame(out, self.number, self.next);
        self.next += 1;
        stats.sent += 1;
        self.transport.write(out)
    }

    /// What an event brought; `Some` when the call is over.
    pub(super) fn on_event(
        &mut self,
        flags: EventFlags,
        buffer: &mut [u8],
        stats: &mut Stats,
        now: u64,
    ) -> Option<End> {
        if flags.contains(EventFlags::OUT) && self.transport.flush().is_err() {
            return Some(self.broken());
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return None;
        }
        for _ in 0..READS_MAX {
            match self.transport.read(buffer) {
                Ok(0) => return Some(self.broken()),
                Ok(length) => {
                    if let Some(end) = self.take(&buffer[..length], stats, now) {
                        return Some(end);
                    }
                    // More of it would be reported again; TLS may hold some back itself.
                    if length < buffer.len() && !self.transport.is_tls() {
                        return None;
                    }
                }
                Err(error) if is_passing(&error) => return None,
                Err(_) => return Some(self.broken()),
            }
        }
        None
    }

    /// How it ended, if it ended now.
    fn broken(&self) -> End {
        match self.stage {
            Stage::Asking | Stage::Trying => End::Failed,
            Stage::Closing => End::Done,
            Stage::Open => End::Lost,
        }
    }

    fn take(&mut self, bytes: &[u8], stats: &mut Stats, now: u64) -> Option<End> {
        if self.input.is_empty() {
            let (taken, end) = self.understand(bytes, stats, now);
            self.input.extend_from_slice(&bytes[taken..]);
            return end;
        }
        let mut stored = std::mem::take(&mut self.input);
        stored.extend_from_slice(bytes);
        let (taken, end) = self.understand(&stored, stats, now);
        stored.drain(..taken);
        self.input = stored;
        end
    }

    fn understand(&mut self, bytes: &[u8], stats: &mut Stats, now: u64) -> (usize, Option<End>) {
        let mut at = 0;
        if self.stage == Stage::Asking {
            let Some(end) = wire::head_end(bytes) else {
                return (0, None);
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                return (end, Some(End::Failed));
            }
            self.stage = Stage::Trying;
            let mut out = Vec::new();
            if self.send(&mut out, stats).is_err() {
                return (end, Some(End::Failed));
            }
            at = end;
        }
        while let Some(header) = wire::header(&bytes[at..]) {
            let from = at + header.bytes;
            let Some(payload) = bytes.get(from..from.saturating_add(header.payload)) else {
                // Not ours if it is so long that it would never be whole.
                if header.payload > PAYLOAD_BYTES {
                    stats.wrong += 1;
                    return (bytes.len(), Some(End::Lost));
                }
                break;
            };
            at = from + header.payload;
            match header.opcode {
                wire::BINARY => {
                    if let Some(end) = self.heard(payload, stats, now) {
                        return (at, Some(end));
                    }
                }
                // The other side closes, and that is the end.
                wire::CLOSE if self.stage == Stage::Closing => {}
                wire::CLOSE => return (at, Some(self.broken())),
                _ => {
                    stats.wrong += 1;
                    return (at, Some(End::Lost));
                }
            }
        }
        (at, None)
    }

    fn heard(&mut self, payload: &[u8], stats: &mut Stats, now: u64) -> Option<End> {
        match wire::check(payload, self.number, self.expected) {
            Echo::Right => {}
            Echo::Later(sequence) => {
                stats.missing += u64::from(sequence - self.expected);
                self.expected = sequence;
            }
            Echo::Earlier => {
                stats.repeated += 1;
                return None;
            }
            Echo::Wrong => stats.wrong += 1,
        }
        let sequence = self.expected;
        self.expected += 1;
        stats.received += 1;
        if let Some(schedule) = self.schedule
            && sequence >= schedule.base
        {
            let latency = now.saturating_sub(schedule.due(sequence));
            stats.latency.record(latency);
            if latency > LATE_NS {
                stats.late += 1;
            }
            self.gap = self.gap.max(now - self.heard);
            self.heard = now;
        }
        if self.stage == Stage::Trying {
            self.stage = Stage::Open;
            stats.opened += 1;
            stats.setup.record(now - self.dialled);
            if self.kind == Kind::Brief {
                self.stage = Stage::Closing;
                if self.transport.write(&wire::MASKED_CLOSE).is_err() {
                    return Some(End::Failed);
                }
            }
        }
        None
    }
}
