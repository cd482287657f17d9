//! The agents: two servers in one process that take calls and send back what they hear.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::poller::{EventFlags, Poller, accept, is_passing, listen};
use crate::wire;

const READ_BYTES: usize = 64 * 1024;

/// Keys from here up are listeners.
const LISTENERS: u64 = 1 << 63;

struct Line {
    socket: TcpStream,
    upgraded: bool,
    /// The beginning of a head or frame that is not whole yet.
    input: Vec<u8>,
    /// What the caller has not taken yet.
    output: Vec<u8>,
    /// The caller has said goodbye: what is left is written, then it is over.
    closing: bool,
}

struct Echo {
    poller: Poller,
    listeners: Vec<TcpListener>,
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    /// What goes out at once, for whichever line.
    out: Vec<u8>,
}

/// Echoes for ever.
pub(crate) fn run(listen_on: &[SocketAddr]) -> io::Result<()> {
    let listeners: io::Result<Vec<TcpListener>> =
        listen_on.iter().map(|addr| listen(*addr)).collect();
    let mut echo = Echo {
        poller: Poller::new()?,
        listeners: listeners?,
        lines: Vec::new(),
        free: Vec::new(),
        out: Vec::with_capacity(2 * READ_BYTES),
    };
    for (index, listener) in echo.listeners.iter().enumerate() {
        let key = LISTENERS + index as u64;
        echo.poller.add(listener, key, EventFlags::IN)?;
    }
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for index in 0..echo.poller.wait(None)? {
            let (key, flags) = echo.poller.event(index);
            if key >= LISTENERS {
                echo.accept(usize::try_from(key - LISTENERS).expect("one of two"))?;
            } else {
                let index = usize::try_from(key).expect("made by accept");
                echo.on_event(index, flags, &mut buffer);
            }
        }
    }
}

impl Echo {
    fn accept(&mut self, listener: usize) -> io::Result<()> {
        while let Some(socket) = accept(&self.listeners[listener])? {
            let index = self.free.pop().unwrap_or_else(|| {
                self.lines.push(None);
                self.lines.len() - 1
            });
            self.poller.add(&socket, index as u64, EventFlags::IN)?;
            self.lines[index] = Some(Line {
                socket,
                upgraded: false,
                input: Vec::new(),
                output: Vec::new(),
                closing: false,
            });
        }
        Ok(())
    }

    fn on_event(&mut self, index: usize, flags: EventFlags, buffer: &mut [u8]) {
        let Some(Some(line)) = self.lines.get_mut(index) else {
            return;
        };
        let waited = !line.output.is_empty();
        let mut alive = true;
        if flags.contains(EventFlags::OUT) {
            let bytes = std::mem::take(&mut line.output);
            alive = line.write(&bytes);
        }
        if alive && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            alive = match line.socket.read(buffer) {
                Ok(0) => false,
                Ok(length) => line.hear(&mut buffer[..length], &mut self.out),
                Err(error) => is_passing(&error),
            };
        }
        alive = alive && !(line.closing && line.output.is_empty());
        if !alive {
            self.lines[index] = None;
            self.free.push(index);
            return;
        }
        let waits = !line.output.is_empty();
        if waits != waited {
            let mut want = EventFlags::IN;
            want.set(EventFlags::OUT, waits);
            let _ = self.poller.change(&line.socket, index as u64, want);
        }
    }
}

impl Line {
    /// False: it is over.
    fn hear(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        let mut stored = std::mem::take(&mut self.input);
        let mut all = bytes;
        if !stored.is_empty() {
            stored.extend_from_slice(all);
            all = &mut stored;
        }
        let taken = self.answer(all, out);
        let rest = all[taken..].to_vec();
        let alive = self.write(out);
        self.input = rest;
        alive
    }

    /// Answers everything that is whole, and says how much that was.
    fn answer(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        if !self.upgraded {
            let Some(end) = wire::head_end(bytes) else {
                return 0;
            };
            out.extend(wire::answer());
            self.upgraded = true;
            at = end;
        }
        while let Some(header) = wire::header(&bytes[at..]) {
            let from = at + header.bytes;
            let Some(payload) = bytes.get_mut(from..from + header.payload) else {
                break;
            };
            if let Some(mask) = header.mask {
                wire::apply_mask(payload, mask);
            }
            wire::frame(out, header.opcode, payload);
            at = from + header.payload;
            if header.opcode == wire::CLOSE {
                self.closing = true;
            }
        }
        at
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return true;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if is_passing(&error) => break,
                Err(_) => return false,
            }
        }
        self.output.extend_from_slice(rest);
        true
    }
}
