//! A worker that reads requests strictly, one behind the other, and remembers all of them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::strict::{Next, Parsed, next};

/// What came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub(crate) requests: Vec<Parsed>,
    /// What was no request, and why.
    pub(crate) bad: Vec<String>,
    open: usize,
}

pub(crate) struct StrictWorker {
    pub(crate) addr: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl StrictWorker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let log = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                log.lock().unwrap().open += 1;
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    serve(stream, &log).await;
                    log.lock().unwrap().open -= 1;
                });
            }
        });
        Self { addr, heard, task }
    }

    /// Whether no connection is open: nothing more will be heard of those that were.
    pub(crate) fn is_quiet(&self) -> bool {
        self.heard.lock().unwrap().open == 0
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for StrictWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers and goes on reading for as long as there is anything: a second request on a connection
/// would be heard.
async fn serve(mut stream: TcpStream, heard: &Mutex<Heard>) {
    let mut read = Vec::new();
    loop {
        match next(&read) {
            Next::Request(request, length) => {
                heard.lock().unwrap().requests.push(request);
                read.drain(..length);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
            Next::Bad(why) => {
                let shown = read.escape_ascii();
                heard.lock().unwrap().bad.push(format!("{why}: {shown}"));
                return;
            }
            Next::Part => {
                if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                    if !read.is_empty() {
                        let shown = read.escape_ascii();
                        heard.lock().unwrap().bad.push(format!("cut: {shown}"));
                    }
                    return;
                }
            }
        }
    }
}
