//! Asking another worker to go on with a call.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::front::dial::{NoAnswer, connect, read_answer};
use crate::http::request::Request;

use super::lifeline::{HEAD_BYTES_MAX, Recorded};

/// How long one worker may take to answer the request and to take the opening messages.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is new for each worker, so it is not recorded.
const NEW_EACH_TIME: [&str; 2] = ["X-Segue-Resume", "X-Segue-Retiring"];

/// Why a worker does not go on with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is not there.
    Unreached,
    /// It answered something else than was asked for.
    Refused(&'static str),
    /// It was there, and then was not: perhaps the call is why.
    Died,
    /// The time for looking was over first.
    OutOfTime,
}

impl Failed {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Unreached => "it cannot be reached",
            Self::Refused(why) => why,
            Self::Died => "it went away",
            Self::OutOfTime => "its caller had waited long enough",
        }
    }
}

/// A worker that goes on with a call, and what it said already.
pub(super) type Found = (TcpStream, Vec<u8>);

impl Recorded {
    /// What is kept of a request. `ours` is what we told the first worker. `None`: it is too long.
    pub(crate) fn new(
        request: &Request,
        ours: &[(&str, &str)],
        protocol: Option<&str>,
    ) -> Option<Self> {
        let mut request = request.clone();
        let headers = &mut request.headers.0;
        headers.retain(|header| !header.is("Sec-WebSocket-Key"));
        let same = |(name, _): &&(&str, &str)| !NEW_EACH_TIME.contains(name);
        let ours: Vec<_> = ours.iter().filter(same).copied().collect();
        let mut head = request.to_worker(&ours, None);
        // Its last line, which is empty.
        head.truncate(head.len() - 2);
        (head.len() <= HEAD_BYTES_MAX).then(|| Self {
            head,
            protocol: protocol.map(str::to_owned),
        })
    }

    /// The head for one more worker, and its key.
    fn head(&self, number: u32, retiring: bool) -> (Vec<u8>, String) {
        // It tells this handshake from others; nobody needs to be unable to guess it.
        let key = BASE64_STANDARD.encode(uuid::Uuid::now_v7().as_bytes());
        let retiring = if retiring {
            "X-Segue-Retiring: true\r\n"
        } else {
            ""
        };
        let new = format!(
            "Sec-WebSocket-Key: {key}\r\nX-Segue-Resume: true\r\nX-Segue-Rescue: {number}\r\n\
             {retiring}\r\n"
        );
        let mut head = self.head.clone();
        head.extend_from_slice(new.as_bytes());
        (head, key)
    }

    /// Asks a worker, when it is its turn, and tells it what the caller said first.
    pub(super) async fn ask(
        &self,
        addr: SocketAddr,
        (number, retiring): (u32, bool),
        opening: &[u8],
        (turns, deadline): (&Semaphore, Instant),
    ) -> Result<Found, Failed> {
        let turn = timeout_at(deadline, turns.acquire()).await;
        let _turn = turn.map_err(|_| Failed::OutOfTime)?;
        let connected = timeout_at(deadline, connect(addr)).await;
        let connected = connected.map_err(|_| Failed::OutOfTime)?;
        let mut worker = connected.ok_or(Failed::Unreached)?;
        let deadline = deadline.min(Instant::now() + ANSWER_MAX);
        let (head, key) = self.head(number, retiring);
        // If this fails, so does reading the answer.
        let _ = timeout_at(deadline, worker.write_all(&head)).await;
        let patience = deadline.saturating_duration_since(Instant::now());
        let read = read_answer(&mut worker, patience, Vec::new()).await;
        let (response, behind) = read.map_err(|none| match none {
            NoAnswer::Ended => Failed::Died,
            NoAnswer::Malformed | NoAnswer::Late | NoAnswer::Interim => Failed::Refused(none.why()),
        })?;
        let refused = if response.status != 101 {
            Some("it refused")
        } else if !response.accepts(&key) {
            Some("its 101 is not valid")
        } else if response.extends() {
            Some("its 101 has extensions")
        } else if response.headers.text("sec-websocket-protocol") != self.protocol.as_deref() {
            Some("it speaks another subprotocol")
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(Failed::Refused(why));
        }
        match timeout_at(deadline, worker.write_all(opening)).await {
            Ok(Ok(())) => Ok((worker, behind)),
            Ok(Err(_)) => Err(Failed::Died),
            Err(_) => Err(Failed::Refused("it does not read")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn recorded() -> Recorded {
        Recorded {
            head: b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(),
            protocol: None,
        }
    }

    /// Asks a worker that does this once it has read something.
    async fn asked<F: Future<Output = ()> + Send>(
        turns: usize,
        within: Duration,
        does: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> Failed {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let worker = async move {
            let (mut worker, _) = listener.accept().await.unwrap();
            // All of it, so that closing it is no reset.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                worker.read_buf(&mut head).await.unwrap();
            }
            does(worker).await;
            std::future::pending::<()>().await;
        };
        let turns = Semaphore::new(turns);
        let limits = (&turns, Instant::now() + within);
        let recorded = recorded();
        let asked = recorded.ask(addr, (1, false), b"", limits);
        tokio::select! {
            answer = asked => answer.unwrap_err(),
            () = worker => unreachable!("it is pending"),
        }
    }

    #[tokio::test]
    async fn only_a_worker_that_goes_away_has_died() {
        let closes = asked(1, PATIENCE, |worker| async move { drop(worker) });
        assert_eq!(closes.await, Failed::Died);
        let resets = asked(1, PATIENCE, |worker| async move {
            worker.set_zero_linger().unwrap();
            drop(worker);
        });
        assert_eq!(resets.await, Failed::Died);
        for answer in ["rubbish\r\n\r\n", "HTTP/1.1 503 No\r\n\r\n"] {
            let says = asked(1, PATIENCE, move |mut worker| async move {
                worker.write_all(answer.as_bytes()).await.unwrap();
                std::future::pending::<()>().await;
            });
            assert!(matches!(says.await, Failed::Refused(_)), "{answer}");
        }
        let hangs = asked(1, SOON, |worker| async move {
            std::future::pending::<()>().await;
            drop(worker);
        });
        assert!(matches!(hangs.await, Failed::Refused(_)));
    }

    #[tokio::test]
    async fn waiting_for_a_turn_is_within_the_time_for_looking() {
        let never = asked(0, SOON, |_| std::future::pending());
        assert_eq!(never.await, Failed::OutOfTime);
    }
}
