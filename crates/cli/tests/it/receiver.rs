//! Somebody who is called: a small server that writes down what it hears, in a thread of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// One request: its path, its head in lower case, and its body.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Heard {
    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Receiver {
    /// Answers as it is told, with a status and a body, by how many came before. Its thread ends
    /// with the tests.
    pub(crate) fn start(answer: impl Fn(usize) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(one) = read(&mut stream) else {
                    continue;
                };
                let number = {
                    let mut all = ours.lock().unwrap();
                    all.push(one);
                    all.len() - 1
                };
                let (status, body) = answer(number);
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(text.as_bytes());
            }
        });
        Self { addr, heard }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

fn read(stream: &mut TcpStream) -> Option<Heard> {
    let mut text = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let path = whole.split(' ').nth(1)?.to_owned();
                let body = serde_json::from_str(body).unwrap_or_default();
                return Some(Heard { path, head, body });
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => text.extend_from_slice(&piece[..count]),
        }
    }
}
