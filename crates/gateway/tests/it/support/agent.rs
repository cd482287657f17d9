//! Workers of the agent: real sockets that log what they received.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::ws::{ACCEPT, BINARY, CLOSE, Ws, read_head};

/// One frame of audio at 8 kHz µ-law.
pub(crate) const FRAME_BYTES: usize = 160;
/// What is answered with more than any buffer holds.
pub(crate) const FLOOD: &str = "/flood";
const FLOOD_BYTES: usize = 32 * 1024 * 1024;
pub(crate) const FRAME_EVERY: Duration = Duration::from_millis(20);

/// How often frames are sent: [`FRAME_EVERY`], or what `SEGUE_TEST_FRAME_MS` says, so that more
/// calls than this machine can talk for can still be watched.
fn frame_every() -> Duration {
    let asked = std::env::var("SEGUE_TEST_FRAME_MS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    asked.map_or(FRAME_EVERY, Duration::from_millis)
}

/// What a worker does with a connection.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// Sends frames back; a close frame too, and then ends.
    Echo,
    /// Sends numbered frames every 20 ms and checks the ones it gets.
    Stream,
    /// Sends these bytes instead of a 101, and ends.
    Answer(String),
    /// Writes down every byte, and answers the first head with a 200.
    Tap,
    /// Accepts, says `hello` at once, and then closes with these bytes.
    Close(Vec<u8>),
}

/// What workers saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Heads of requests.
    pub(crate) heads: Vec<String>,
    /// What came behind a head that was no upgrade.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// All bytes that came to a tap.
    pub(crate) raw: Vec<u8>,
    /// Per streamed call: frames sent and frames received.
    pub(crate) streams: Vec<(u64, u64)>,
    /// Payloads of the close frames that streamed calls got, and whether they were masked.
    pub(crate) closes: Vec<(Vec<u8>, bool)>,
    /// What went wrong in streams.
    pub(crate) faults: Vec<String>,
}

pub(crate) struct Agent {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Agent {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let log = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, manner.clone(), Arc::clone(&log)));
            }
        });
        Self { addr, seen, task }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }

    /// Stops listening; what it has goes on.
    pub(crate) async fn stop_listening(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, manner: Manner, seen: Arc<Mutex<Seen>>) {
    if let Manner::Tap = manner {
        tap(stream, &seen).await;
        return;
    }
    // A health check connects and says nothing.
    let Ok((head, behind)) = read_head(&mut stream).await else {
        return;
    };
    let wants_websocket = head.contains("Upgrade: websocket");
    seen.lock().unwrap().heads.push(head.clone());
    if let Manner::Answer(answer) = &manner {
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut ws = Ws::new(stream, behind, false);
        while let Ok(Some(_)) = ws.next().await {}
        return;
    }
    if head.starts_with(&format!("GET {FLOOD} ")) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD_BYTES}\r\n\r\n");
        let mut sent = stream.write_all(head.as_bytes()).await;
        let part = vec![b'x'; 64 * 1024];
        for _ in 0..FLOOD_BYTES / part.len() {
            if sent.is_err() {
                return;
            }
            sent = stream.write_all(&part).await;
        }
        return;
    }
    if !wants_websocket {
        seen.lock().unwrap().bodies.push(behind);
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Agent: yes\r\n\r\nok\n";
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let accepted = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    if stream.write_all(accepted.as_bytes()).await.is_err() {
        return;
    }
    let mut ws = Ws::new(stream, behind, false);
    match manner {
        Manner::Echo => {
            while let Ok(Some((opcode, payload))) = ws.next().await {
                if ws.send(opcode, &payload).await.is_err() || opcode == CLOSE {
                    break;
                }
            }
        }
        Manner::Close(last) => {
            let _ = ws.send(BINARY, b"hello").await;
            let _ = ws.stream.write_all(&last).await;
            let _ = ws.stream.shutdown().await;
            while let Ok(Some(_)) = ws.next().await {}
        }
        Manner::Stream => {
            let mut stream = Stream::new(ws);
            let mut ended = stream.run(|_| false).await;
            if ended.is_ok() {
                ended = stream.end().await;
            }
            let mut seen = seen.lock().unwrap();
            seen.streams.push((stream.sent, stream.received));
            seen.closes.extend(stream.closed);
            if let Err(fault) = ended {
                seen.faults.push(fault);
            }
        }
        Manner::Answer(_) | Manner::Tap => unreachable!("served above"),
    }
}

async fn tap(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let mut part = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut part).await {
        let mut seen = seen.lock().unwrap();
        seen.raw.append(&mut part);
        if seen.raw.windows(4).any(|w| w == b"\r\n\r\n") {
            break;
        }
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let _ = stream.write_all(answer).await;
}

/// One end of a call with numbered frames each way.
pub(crate) struct Stream<S> {
    ws: Ws<S>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) last: tokio::time::Instant,
    /// The longest time without a frame since someone last looked.
    pub(crate) gap: Duration,
    /// The payload of the close frame that came, and whether it was masked.
    pub(crate) closed: Option<(Vec<u8>, bool)>,
}

pub(crate) fn payload(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let fill = (0u64..).map(|n| (number.wrapping_mul(31).wrapping_add(n) % 251) as u8);
    bytes.extend(fill.take(FRAME_BYTES - 8));
    bytes
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream<S> {
    pub(crate) fn new(ws: Ws<S>) -> Self {
        Self {
            ws,
            sent: 0,
            received: 0,
            last: tokio::time::Instant::now(),
            gap: Duration::ZERO,
            closed: None,
        }
    }

    /// Sends and checks frames until `hang_up` says so after a frame, or the other side closes.
    /// The one that hangs up says so in a close frame and hears the rest.
    pub(crate) async fn run(
        &mut self,
        mut hang_up: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let mut tick = tokio::time::interval(frame_every());
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut closing = false;
        loop {
            tokio::select! {
                _ = tick.tick(), if !closing => {
                    let sent = self.ws.send(BINARY, &payload(self.sent)).await;
                    sent.map_err(|error| format!("sending {}: {error}", self.sent))?;
                    self.sent += 1;
                }
                frame = self.ws.next() => {
                    let frame = frame.map_err(|error| format!("after {}: {error}", self.received))?;
                    match frame {
                        None => return Err(format!("ended without a close frame after {}", self.received)),
                        Some((CLOSE, code)) => {
                            self.closed = Some((code.clone(), self.ws.was_masked));
                            if !closing {
                                let answer = self.ws.send(CLOSE, &code).await;
                                answer.map_err(|error| error.to_string())?;
                            }
                            return Ok(());
                        }
                        Some((_, got)) => {
                            if got != payload(self.received) {
                                return Err(format!("frame {} is wrong", self.received));
                            }
                            self.received += 1;
                            let now = tokio::time::Instant::now();
                            self.gap = self.gap.max(now - self.last);
                            self.last = now;
                            if !closing && hang_up(self) {
                                closing = true;
                                let bye = self.ws.close(1000).await;
                                bye.map_err(|error| error.to_string())?;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Waits for the end of the stream behind a close frame: nothing may follow one. Ends its own
    /// side first, unless it was the gateway that closed the call: then that ends both.
    pub(crate) async fn end(&mut self) -> Result<(), String> {
        let code = self.closed.as_ref().and_then(|(code, _)| code.get(..2));
        if code != Some(&1001u16.to_be_bytes()) {
            let shut = self.ws.stream.shutdown().await;
            shut.map_err(|error| error.to_string())?;
        }
        match self.ws.next().await {
            Ok(None) => Ok(()),
            Ok(Some(frame)) => Err(format!("a frame behind the close frame: {frame:?}")),
            Err(error) => Err(format!("no clean end: {error}")),
        }
    }
}
