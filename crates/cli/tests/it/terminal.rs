//! A terminal for programs that take one over: a pseudo-terminal, and as much of an emulator as
//! says what a person would see.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A pseudo-terminal with a program in it.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    /// Our end.
    near: File,
    /// The program's end: kept open, so that its modes can be looked at after the program's end.
    far: OwnedFd,
    screen: Arc<Mutex<Screen>>,
}

/// What is on the screen.
#[derive(Debug, Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    /// Whether the program draws on the screen beside the one with the shell's lines.
    is_alternate: bool,
    /// Bytes of a character or a sequence that is not complete yet.
    rest: Vec<u8>,
}

impl Terminal {
    /// Runs a program in a terminal of this size.
    pub(crate) fn run(mut command: Command, columns: u16, rows: u16) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let far = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        tcsetwinsize(&near, size(columns, rows)).unwrap();
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(far.try_clone().unwrap())
            .stdout(far.try_clone().unwrap())
            .stderr(far.try_clone().unwrap())
            .spawn()
            .unwrap();
        let near = File::from(near);
        let screen = Arc::new(Mutex::new(Screen::default()));
        let (shown, mut reader) = (Arc::clone(&screen), near.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            // An error: both ends are gone.
            while let Ok(read @ 1..) = reader.read(&mut bytes) {
                shown.lock().unwrap().take(&bytes[..read]);
            }
        });
        Self {
            child,
            near,
            far: far.into(),
            screen,
        }
    }

    /// What a person sees.
    pub(crate) fn text(&self) -> String {
        let screen = self.screen.lock().unwrap();
        let lines = screen.rows.iter().map(|row| {
            let line: String = row.iter().collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.near.write_all(keys.as_bytes()).unwrap();
    }

    /// Changes its size. What was on it is forgotten here, so that only what is drawn anew is seen.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        *self.screen.lock().unwrap() = Screen {
            is_alternate: true,
            ..Screen::default()
        };
        tcsetwinsize(&self.near, size(columns, rows)).unwrap();
        // Without a session of its own the kernel tells nobody.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }

    /// Whether a shell could go on with it: its own screen, with echo and whole lines.
    pub(crate) fn is_restored(&self) -> bool {
        let modes = tcgetattr(self.far.as_fd()).unwrap().local_modes;
        let whole = modes.contains(LocalModes::ECHO | LocalModes::ICANON);
        whole && !self.screen.lock().unwrap().is_alternate
    }

    /// Whether it was taken over.
    pub(crate) fn is_taken(&self) -> bool {
        self.screen.lock().unwrap().is_alternate
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Screen {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.rest);
        let mut left = &bytes[..];
        while let Some(after) = self.one(left) {
            left = after;
        }
        self.rest = left.to_vec();
    }

    /// Takes a sequence or a character in; answers what follows it, or `None` if it is not whole.
    fn one<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match *bytes.first()? {
            0x1b if *bytes.get(1)? == b'[' => {
                let end = bytes[2..].iter().position(|b| (0x40..=0x7e).contains(b))? + 2;
                let parameters = String::from_utf8_lossy(&bytes[2..end]).into_owned();
                self.control(&parameters, bytes[end]);
                Some(&bytes[end + 1..])
            }
            0x1b => Some(&bytes[2..]),
            b'\r' => {
                self.at.1 = 0;
                Some(&bytes[1..])
            }
            b'\n' => {
                self.at.0 += 1;
                Some(&bytes[1..])
            }
            first => {
                let length = match first {
                    0x00..=0x7f => 1,
                    0xc0..=0xdf => 2,
                    0xe0..=0xef => 3,
                    _ => 4,
                };
                let text = std::str::from_utf8(bytes.get(..length)?).unwrap_or("?");
                self.put(text.chars().next().unwrap_or('?'));
                Some(&bytes[length..])
            }
        }
    }

    fn put(&mut self, character: char) {
        let (row, column) = self.at;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
        let line = &mut self.rows[row];
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = character;
        self.at.1 += 1;
    }

    fn control(&mut self, parameters: &str, end: u8) {
        let mut numbers = parameters.split(';').map(|text| text.parse().unwrap_or(1));
        match (end, parameters) {
            (b'H', _) => {
                let row: usize = numbers.next().unwrap_or(1);
                let column: usize = numbers.next().unwrap_or(1);
                self.at = (row.max(1) - 1, column.max(1) - 1);
            }
            (b'J', _) => self.rows.clear(),
            (b'h', "?1049") => self.is_alternate = true,
            (b'l', "?1049") => self.is_alternate = false,
            _ => {}
        }
    }
}
