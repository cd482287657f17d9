//! Workers whose life is in a test's hand.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::soon;
use super::ws::{Ws, read_head};

/// A call as it reached a worker. Dropping it is the worker's death under it.
pub(crate) struct Taken {
    /// Which worker.
    pub(crate) worker: usize,
    /// The request.
    pub(crate) head: String,
    /// Behind the 101, which went out.
    pub(crate) ws: Ws<TcpStream>,
}

impl Taken {
    /// Whether the request has this header line.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.head.lines().any(|has| has.eq_ignore_ascii_case(line))
    }

    /// The next message, which must be this one.
    pub(crate) async fn expect(&mut self, message: &[u8]) {
        let next = soon("a message for the worker", self.ws.next()).await;
        let (_, payload) = next.unwrap().expect("no end");
        assert_eq!(
            String::from_utf8_lossy(&payload),
            String::from_utf8_lossy(message)
        );
    }
}

/// Workers that accept every call and leave the rest to the test.
pub(crate) struct Fleet {
    pub(crate) addrs: Vec<SocketAddr>,
    listening: Vec<JoinHandle<()>>,
    taken: UnboundedReceiver<Taken>,
    sender: UnboundedSender<Taken>,
    accepts: &'static str,
}

impl Fleet {
    pub(crate) async fn start(workers: usize) -> Self {
        Self::accepting(workers, "").await
    }

    /// `lines` are header lines of each 101.
    pub(crate) async fn accepting(workers: usize, lines: &'static str) -> Self {
        let (sender, taken) = unbounded_channel();
        let mut fleet = Self {
            addrs: Vec::new(),
            listening: Vec::new(),
            taken,
            sender,
            accepts: lines,
        };
        for worker in 0..workers {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            fleet.addrs.push(listener.local_addr().unwrap());
            fleet.listening.push(fleet.listen(worker, listener));
        }
        fleet
    }

    fn listen(&self, worker: usize, listener: TcpListener) -> JoinHandle<()> {
        let (sender, lines) = (self.sender.clone(), self.accepts);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(taken) = accept(worker, stream, lines).await {
                        // A test that is over wants no more calls.
                        let _ = sender.send(taken);
                    }
                });
            }
        })
    }

    /// The next call that reaches a worker.
    pub(crate) async fn take(&mut self) -> Taken {
        soon("a call at a worker", self.taken.recv()).await.unwrap()
    }

    /// Whether no call waits to be taken.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.taken.try_recv().is_err()
    }

    /// Has a worker refuse connections.
    pub(crate) async fn stop(&mut self, worker: usize) {
        self.listening[worker].abort();
        let _ = (&mut self.listening[worker]).await;
    }

    /// Has it listen again, where it was.
    pub(crate) async fn restart(&mut self, worker: usize) {
        let listener = TcpListener::bind(self.addrs[worker]).await.unwrap();
        self.listening[worker] = self.listen(worker, listener);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.listening {
            task.abort();
        }
    }
}

async fn accept(worker: usize, mut stream: TcpStream, lines: &str) -> Option<Taken> {
    // A health check connects and says nothing.
    let (head, behind) = read_head(&mut stream).await.ok()?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    })?;
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = BASE64_STANDARD.encode(digest);
    let accepted = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    );
    stream.write_all(accepted.as_bytes()).await.ok()?;
    let ws = Ws::new(stream, behind, false);
    Some(Taken { worker, head, ws })
}

/// The next message for a caller, which must be this one.
pub(crate) async fn hears(caller: &mut Ws<impl Stream>, message: &[u8]) {
    let next = soon("a message for the caller", caller.next()).await;
    let (_, payload) = next.unwrap().expect("no end");
    assert_eq!(
        String::from_utf8_lossy(&payload),
        String::from_utf8_lossy(message)
    );
}

pub(crate) trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for S {}
