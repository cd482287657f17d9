//! The yardstick: a relay that parses nothing.
//!
//! One thread, one epoll, one buffer; a frame costs its share of a wait, one read and one write. No
//! proxy of this design can do less for a byte, so what a real one costs more is the price of what
//! it knows. It can also be told to damage what it relays, to show that the generator notices.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use serde::{Deserialize, Serialize};

use crate::poller::{EventFlags, Poller, accept, connect, is_passing, listen};

/// As that of the relay it is compared with.
const READ_BYTES: usize = 64 * 1024;

const LISTENER: u64 = u64::MAX;

/// What it does to the bytes from the agents, in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// Nothing.
    #[default]
    None,
    /// Every hundredth read has a byte changed.
    Flip,
    /// Every hundredth read is thrown away.
    Drop,
    /// Every hundredth read comes twice.
    Twice,
    /// Every hundredth read is the last of its call.
    Cut,
}

/// Reads between two that are damaged.
const DAMAGE_EVERY: u64 = 100;

struct Half {
    socket: TcpStream,
    /// For it, while it takes no more.
    leftover: Vec<u8>,
    /// It has said its last byte.
    ended: bool,
    interest: EventFlags,
}

/// Caller and agent.
type Pair = [Half; 2];

struct Relay {
    poller: Poller,
    listener: TcpListener,
    backends: Vec<SocketAddr>,
    next: usize,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    damage: Damage,
    reads: u64,
}

/// Relays between `listen_on` and the backends in turn, for ever.
pub(crate) fn run(
    listen_on: SocketAddr,
    backends: Vec<SocketAddr>,
    damage: Damage,
) -> io::Result<()> {
    let mut relay = Relay {
        poller: Poller::new()?,
        listener: listen(listen_on)?,
        backends,
        next: 0,
        pairs: Vec::new(),
        free: Vec::new(),
        damage,
        reads: 0,
    };
    relay
        .poller
        .add(&relay.listener, LISTENER, EventFlags::IN)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for index in 0..relay.poller.wait(None)? {
            match relay.poller.event(index) {
                (LISTENER, _) => relay.accept()?,
                (key, flags) => relay.on_event(key, flags, &mut buffer),
            }
        }
    }
}

impl Relay {
    fn accept(&mut self) -> io::Result<()> {
        while let Some(caller) = accept(&self.listener)? {
            self.next = (self.next + 1) % self.backends.len();
            let Ok(agent) = connect(self.backends[self.next]) else {
                continue;
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.pairs.push(None);
                self.pairs.len() - 1
            });
            let pair = [caller, agent].map(|socket| Half {
                socket,
                leftover: Vec::new(),
                ended: false,
                interest: EventFlags::IN,
            });
            for (side, half) in pair.iter().enumerate() {
                self.poller
                    .add(&half.socket, key(index, side), half.interest)?;
            }
            self.pairs[index] = Some(pair);
        }
        Ok(())
    }

    fn on_event(&mut self, key: u64, flags: EventFlags, buffer: &mut [u8]) {
        let index = usize::try_from(key >> 1).expect("made by key");
        let side = usize::from(key & 1 == 1);
        let Some(Some(pair)) = self.pairs.get_mut(index) else {
            return;
        };
        let failed = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let mut alive = true;
        if (failed || flags.contains(EventFlags::OUT)) && !pair[side].leftover.is_empty() {
            let bytes = std::mem::take(&mut pair[side].leftover);
            alive = write(&mut pair[side], &bytes);
        }
        let wanted = !pair[side].ended && pair[1 - side].leftover.is_empty();
        if alive && wanted && (failed || flags.contains(EventFlags::IN)) {
            match pair[side].socket.read(buffer) {
                Ok(0) => pair[side].ended = true,
                Ok(length) => {
                    alive = if side == 1 && self.damage != Damage::None {
                        self.reads += 1;
                        damaged(self.damage, self.reads, pair, &mut buffer[..length])
                    } else {
                        write(&mut pair[1 - side], &buffer[..length])
                    };
                }
                Err(error) => alive = is_passing(&error),
            }
        }
        // In the usual case nothing is left to be settled.
        if alive
            && flags == EventFlags::IN
            && !pair[side].ended
            && pair[1 - side].leftover.is_empty()
        {
            return;
        }
        self.settle(index, alive);
    }

    fn settle(&mut self, index: usize, alive: bool) {
        let Some(pair) = &mut self.pairs[index] else {
            return;
        };
        let over = pair
            .iter()
            .all(|half| half.ended && half.leftover.is_empty());
        if !alive || over {
            self.pairs[index] = None;
            self.free.push(index);
            return;
        }
        for side in 0..2 {
            let other = &pair[1 - side];
            let mut want = EventFlags::empty();
            want.set(
                EventFlags::IN,
                !pair[side].ended && other.leftover.is_empty(),
            );
            want.set(EventFlags::OUT, !pair[side].leftover.is_empty());
            if other.ended && pair[side].leftover.is_empty() {
                let _ = pair[side].socket.shutdown(Shutdown::Write);
            }
            let half = &mut pair[side];
            if want != half.interest {
                let key = key(index, side);
                let _ = if want.is_empty() {
                    self.poller.remove(&half.socket)
                } else if half.interest.is_empty() {
                    self.poller.add(&half.socket, key, want)
                } else {
                    self.poller.change(&half.socket, key, want)
                };
                half.interest = want;
            }
        }
    }
}

fn key(index: usize, side: usize) -> u64 {
    (index as u64) << 1 | side as u64
}

/// False: it is gone.
fn write(half: &mut Half, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match half.socket.write(rest) {
            Ok(written) => rest = &rest[written..],
            // Also while it is still being connected.
            Err(error) if is_passing(&error) => break,
            Err(_) => return false,
        }
    }
    half.leftover.extend_from_slice(rest);
    true
}

fn damaged(damage: Damage, reads: u64, pair: &mut Pair, bytes: &mut [u8]) -> bool {
    let now = reads.is_multiple_of(DAMAGE_EVERY);
    match damage {
        Damage::Flip if now => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        }
        Damage::Drop if now => return true,
        Damage::Twice if now => return write(&mut pair[0], bytes) && write(&mut pair[0], bytes),
        Damage::Cut if now => return false,
        _ => {}
    }
    write(&mut pair[0], bytes)
}
