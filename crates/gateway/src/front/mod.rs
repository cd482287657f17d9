//! The front: from an accepted connection to a decided, connected call.
//!
//! An ordinary call without TLS is set up by the relay's own thread ([`arriving`]). Any other
//! connection has a task of its own, but only until its call stands: then a call is a value in the
//! relay, and this task is gone. Everything before that has a deadline and a bound.

pub(crate) mod arriving;
mod call;
mod decided;
pub(crate) mod dial;
mod facts;
mod plain;
pub(crate) mod trace;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendFlags, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::config::Limits;
use crate::health::Health;
use crate::http::Answer;
use crate::http::body::Turns;
use crate::http::head::read_head_on;
use crate::http::request::{Request, Wants};
use crate::ledger::{Ledger, Refused, Ticket};
use crate::quiet::Quiet;
use crate::relay::{self, LiveCall, Relay};
use crate::rescue::{Lifeline, rescue_all};
use crate::stop::stopped;
use crate::tls::{Caller, Tls};

/// How long an answer of ours may take to be read, so that closing does not destroy it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is said to who is turned away, written out because it must cost nothing. Who is to speak
/// TLS is told nothing.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
    Content-Type: text/plain\r\nContent-Length: 21\r\nConnection: close\r\n\r\n\
    too many connections\n";

/// Connections that were turned away.
static TURNED: Quiet = Quiet::new();

/// Requests that were refused.
static REFUSED: Quiet = Quiet::new();

/// Connections that could not be accepted.
static UNACCEPTED: Quiet = Quiet::new();

/// How long accepting rests when the process has no descriptor left.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Everything a connection needs.
pub(crate) struct Front {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) health: Arc<Health>,
    pub(crate) tls: Option<Arc<Tls>>,
    limits: Limits,
    turns: Turns,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    open: watch::Sender<usize>,
    /// Those of them of which nothing is decided and counted yet.
    undecided: watch::Sender<usize>,
    /// Whether callers who have not said what they want are to be handed over.
    recalled: watch::Sender<bool>,
    parked: Mutex<Vec<Parked>>,
    /// Where tasks are that go on with what leaves a shard.
    runtime: Handle,
    /// How many left one.
    #[cfg(test)]
    pub(crate) left: watch::Sender<usize>,
}

/// A caller who was accepted and has not said yet what it wants, as it goes to another gateway.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) socket: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    /// The beginning of its head.
    pub(crate) said: Vec<u8>,
}

/// One connection that is no call yet, as it is counted.
pub(crate) struct Guest {
    front: Arc<Front>,
    peer: SocketAddr,
    is_decided: AtomicBool,
}

/// A call that stands and waits for its relay.
struct Upgraded {
    ticket: Ticket,
    worker: TcpStream,
    early_up: Vec<u8>,
    early_down: Vec<u8>,
    /// How it can outlive its worker, if it is to.
    lifeline: Option<Box<Lifeline>>,
}

/// What became of a request: a call, or nothing more to do; or an answer of ours, or nobody to
/// answer to.
type Outcome = Result<Option<Upgraded>, Option<Answer>>;

impl Front {
    pub(crate) fn new(
        ledger: Arc<Ledger>,
        relay: Arc<Relay>,
        health: Arc<Health>,
        tls: Option<Arc<Tls>>,
        limits: Limits,
    ) -> Arc<Self> {
        let (lost, calls) = unbounded_channel();
        relay.rescue_with(lost);
        let front = Arc::new(Self {
            ledger,
            relay,
            health,
            tls,
            limits,
            turns: Turns::default(),
            addresses: Mutex::default(),
            open: watch::Sender::new(0),
            undecided: watch::Sender::new(0),
            recalled: watch::Sender::new(false),
            parked: Mutex::default(),
            runtime: Handle::current(),
            #[cfg(test)]
            left: watch::Sender::new(0),
        });
        tokio::spawn(rescue_all(Arc::downgrade(&front), calls));
        front
    }

    /// Follows the number of connections that are no calls yet.
    pub(crate) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Follows how many of them want something that is not decided yet.
    pub(crate) fn undecided(&self) -> watch::Receiver<usize> {
        self.undecided.subscribe()
    }

    /// Has callers who have not said yet what they want wait for [`Front::take_parked`]. With TLS
    /// they cannot move, and go on.
    pub(crate) fn recall(&self) {
        self.recalled.send_replace(true);
    }

    /// Serves them here after all.
    pub(crate) fn let_on(self: &Arc<Self>) {
        let parked = {
            // Under the lock: who comes behind it sees that nobody is recalled any more.
            let mut parked = self.lock_parked();
            self.recalled.send_replace(false);
            std::mem::take(&mut *parked)
        };
        for parked in parked {
            self.go_on(parked);
        }
    }

    /// Those that wait since [`Front::recall`].
    pub(crate) fn take_parked(&self) -> Vec<Parked> {
        std::mem::take(&mut *self.lock_parked())
    }

    /// Serves a caller who was accepted elsewhere.
    pub(crate) fn go_on(self: &Arc<Self>, parked: Parked) {
        let Parked { socket, peer, said } = parked;
        let deadline = Instant::now() + self.limits.head_timeout;
        match TcpStream::from_std(socket) {
            Ok(socket) => match self.admit(peer) {
                Ok(guest) => {
                    tokio::spawn(guest.attend(Caller::Plain(socket), said, deadline));
                }
                Err(reason) => self.turn_away(&socket, peer, reason),
            },
            Err(error) => tracing::warn!(%peer, %error, "a caller who moved cannot be heard"),
        }
    }

    fn lock_parked(&self) -> std::sync::MutexGuard<'_, Vec<Parked>> {
        // Whole after every change.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts as one of [`Front::open`] until it is dropped.
    pub(crate) fn occupy(self: &Arc<Self>) -> Busy {
        self.open.send_modify(|open| *open += 1);
        Busy(Arc::clone(self))
    }

    /// Accepts until `stop` turns true. What was accepted goes on.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        listener: &TcpListener,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stop) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(error) => {
                    say_unaccepted(&error);
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Accepts what waits at the listener, and no more.
    pub(crate) fn accept_waiting(self: &Arc<Self>, listener: &std::net::TcpListener) {
        while let Ok((socket, peer)) = listener.accept() {
            let socket = socket.set_nonblocking(true).map(|()| socket);
            if let Ok(socket) = socket.and_then(TcpStream::from_std) {
                self.welcome(socket, peer);
            }
        }
    }

    fn welcome(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        match self.admit(peer) {
            Ok(guest) => {
                tokio::spawn(guest.serve(socket));
            }
            Err(reason) => self.turn_away(&socket, peer, reason),
        }
    }

    fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Guest, &'static str> {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Behind the lock: several threads admit.
        if *self.open.borrow() >= self.limits.connections {
            return Err("this gateway holds as many new connections as it may");
        }
        let here = addresses.entry(origin(peer.ip())).or_default();
        if *here >= self.limits.connections_per_address {
            return Err("this address holds as many new connections as it may");
        }
        *here += 1;
        self.open.send_modify(|open| *open += 1);
        self.undecided.send_modify(|undecided| *undecided += 1);
        Ok(Guest {
            front: Arc::clone(self),
            peer,
            is_decided: AtomicBool::new(false),
        })
    }
}

impl Front {
    /// Answers without waiting, since waiting is what there is no room for.
    fn turn_away(&self, socket: &impl AsFd, peer: SocketAddr, reason: &'static str) {
        if let Some(unsaid) = TURNED.may_say(clock::now()) {
            tracing::warn!(%peer, reason, unsaid, "a connection was turned away");
        }
        if self.tls.is_none() {
            // Who does not get the answer sees the connection close.
            let _ = rustix::net::send(socket, TURNED_AWAY, SendFlags::NOSIGNAL);
        }
    }
}

/// Something that a handoff waits for as it does for connections that are no calls yet.
pub(crate) struct Busy(Arc<Front>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.decided();
        let addresses = self.front.addresses.lock();
        let mut addresses = addresses.unwrap_or_else(PoisonError::into_inner);
        let origin = origin(self.peer.ip());
        if let Some(here) = addresses.get_mut(&origin) {
            *here -= 1;
            if *here == 0 {
                addresses.remove(&origin);
            }
        }
        drop(addresses);
        self.front.open.send_modify(|open| *open -= 1);
    }
}

pub(crate) fn say_unaccepted(error: &io::Error) {
    if let Some(unsaid) = UNACCEPTED.may_say(clock::now()) {
        tracing::warn!(%error, unsaid, "a connection could not be accepted");
    }
}

/// What every caller's socket has, set where it costs nothing: who is accepted inherits it.
pub(crate) fn prepare(listener: &impl AsFd) {
    // Without it small frames wait for acknowledgements; nothing else depends on it.
    let set = sockopt::set_tcp_nodelay(listener, true)
        .and_then(|()| sockopt::set_socket_oobinline(listener, true))
        .map_err(io::Error::from);
    if let Err(error) = set.and_then(|()| relay::keep_alive(listener)) {
        tracing::warn!(%error, "callers' sockets lack options; frames may be late");
    }
}

/// What counts as one address: IPv4 in its own form, and the network that one IPv6 customer gets.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

impl Guest {
    async fn serve(self, socket: TcpStream) {
        let deadline = Instant::now() + self.front.limits.head_timeout;
        let caller = match &self.front.tls {
            None => Caller::Plain(socket),
            Some(tls) => match timeout_at(deadline, tls.accept(socket)).await {
                Ok(Ok(caller)) => caller,
                Ok(Err(error)) => {
                    tracing::debug!(peer = %self.peer, %error, "no TLS session");
                    return;
                }
                Err(_) => return,
            },
        };
        self.attend(caller, Vec::new(), deadline).await;
    }

    /// Serves a caller who has said the beginning of a head.
    async fn attend(self, mut caller: Caller, mut said: Vec<u8>, deadline: Instant) {
        let mut recalled = self.front.recalled.subscribe();
        let can_move = matches!(caller, Caller::Plain(_));
        let head = loop {
            tokio::select! {
                // Who has said all of it is served here.
                biased;
                read = timeout_at(deadline, read_head_on(&mut caller, &mut said)) => break read,
                () = stopped(&mut recalled), if can_move => {}
            }
            match self.park(caller, said) {
                None => return,
                Some(back) => (caller, said) = back,
            }
        };
        let outcome = match head {
            Ok(Ok((head, behind))) => self.request(&mut caller, &head, behind).await,
            Ok(Err(error)) => Err(Answer::to_unread(&error)),
            Err(_) => Err(Some(Answer::new(408, "the head took too long"))),
        };
        self.conclude(caller, outcome).await;
    }

    async fn conclude(self, mut caller: Caller, outcome: Outcome) {
        match outcome {
            Ok(Some(upgraded)) => self.into_call(caller, upgraded),
            Ok(None) | Err(None) => close(caller).await,
            Err(Some(answer)) => {
                if let Some(unsaid) = REFUSED.may_say(clock::now()) {
                    let Answer { status, reason, .. } = &answer;
                    tracing::info!(peer = %self.peer, status, %reason, unsaid, "refused");
                }
                // Whoever left needs no answer.
                let answer = answer.bytes();
                let written = caller.write_all(&answer);
                let _ = timeout(CLOSE_TIMEOUT, written).await;
                close(caller).await;
            }
        }
    }

    /// Leaves a caller to [`Front::take_parked`]; gives it back if it need not go any more.
    fn park(&self, caller: Caller, said: Vec<u8>) -> Option<(Caller, Vec<u8>)> {
        let mut parked = self.front.lock_parked();
        let Caller::Plain(socket) = caller else {
            return Some((caller, said));
        };
        if !*self.front.recalled.borrow() {
            return Some((Caller::Plain(socket), said));
        }
        match socket.into_std() {
            Ok(socket) => parked.push(Parked {
                socket,
                peer: self.peer,
                said,
            }),
            Err(error) => tracing::warn!(peer = %self.peer, %error, "a caller cannot move"),
        }
        None
    }

    /// What it wants is counted, or refused.
    fn decided(&self) {
        if !self.is_decided.swap(true, Ordering::Relaxed) {
            let undecided = &self.front.undecided;
            undecided.send_modify(|undecided| *undecided -= 1);
        }
    }

    async fn request(&self, caller: &mut Caller, head: &[u8], behind: Vec<u8>) -> Outcome {
        let request = Request::parse(head)?;
        match request.wants.clone() {
            Wants::WebSocket { key } => self.call(caller, request, key, behind).await,
            Wants::Answer { waits } => self.plain(caller, &request, waits, behind).await,
        }
    }

    /// The connection is a call now: it leaves the front's books and this task.
    fn into_call(self, caller: Caller, upgraded: Upgraded) {
        let relay = &self.front.relay;
        let Upgraded {
            ticket,
            worker,
            early_up,
            early_down,
            lifeline,
        } = upgraded;
        let call = (|| {
            let worker = worker.into_std()?;
            match caller {
                Caller::Plain(caller) => {
                    let caller = caller.into_std()?;
                    LiveCall::of_ready(ticket, caller, worker, early_up, early_down)
                }
                Caller::Tls(caller) => {
                    let (socket, tls) = caller.into_inner();
                    let caller = (socket.into_std()?, tls);
                    LiveCall::new_tls(ticket, caller, worker, early_up, early_down)
                }
            }
        })();
        match call {
            Ok(call) => relay.adopt(call.with_lifeline(lifeline)),
            Err(error) => tracing::error!(%error, "a call could not be relayed"),
        }
        // Now, not before: who gives the calls away asks the relay once more behind this.
        drop(self);
    }
}

/// Closes so that what was written last is read: says so first, and reads on for a moment, because
/// closing over unread bytes resets the connection.
async fn close(mut caller: Caller) {
    let gently = async {
        caller.shutdown().await?;
        let mut rest = [0; 1_024];
        while caller.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Either way it is closed now.
    let _ = timeout(CLOSE_TIMEOUT, gently).await;
}

/// The access log, at the level of debugging: a line for each request that a worker is sent.
fn sent(ticket: &Ticket, request: &Request) {
    const LOG: &str = "segue_gateway::access";
    if tracing::enabled!(target: LOG, tracing::Level::DEBUG) {
        let Request { method, target, .. } = request;
        let (worker, call) = (ticket.addr(), ticket.identity().call);
        tracing::debug!(target: LOG, %worker, %call, method, target, "sent");
    }
}

/// Headers as they are written.
fn pairs<'a>(headers: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(n, v)| (*n, v.as_str())).collect()
}

/// The answer to a refused request.
fn answer_to(refused: Refused) -> Answer {
    Answer::new(503, refused.to_string()).with("Retry-After", "1")
}
