//! What a gateway needs before it serves: directories, descriptors, a listener, and the calls and
//! pins of the process before it.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::names::GatewayId;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::clock;
use crate::config::Config;
use crate::files;
use crate::front::Front;
use crate::handoff::{AheadCall, Came, HandoffError, Header, TakenCall, Taking};
use crate::journal::{self, Lost};
use crate::keeper::{self, Keeping, Known, Orphan, Recovered, Session, WardId};
use crate::ledger::{Late, Ledger, Ticket};
use crate::low;
use crate::relay::{Held, Keep, LiveCall, Relay};
use crate::report::Life;
use crate::run::RunError;

/// Connections that wait to be accepted, also while a gateway hands over.
const BACKLOG: i32 = 1_024;

/// How long calls that stand still wait for a keeper that does not read, in all: well below what a
/// giver waits. They go on unkept then, and are given to it later.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(50);

/// The same for calls of a gateway that died, which nobody hears anyway, and for those that still
/// flow elsewhere: well below what a giver waits for.
const HOLD_BACK_MAX: Duration = Duration::from_millis(500);

/// Where others find us: the socket for the next gateway, and the file with our address.
pub(crate) struct Doorplate {
    pub(crate) socket: UnixListener,
    draft: PathBuf,
    path: PathBuf,
    addr_file: PathBuf,
    up_file: PathBuf,
}

/// Which process serves, as `run/gateway.up` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// The process.
    pub pid: u32,
    /// Calls that it had when it began to take new ones: those that it took over.
    pub calls: usize,
}

impl Doorplate {
    /// Makes the socket, in a place where nobody looks yet.
    pub(crate) fn prepare(config: &Config) -> Result<Self, RunError> {
        let path = config.handoff_socket();
        // Several gateways of one process share its number, in tests.
        let name = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let draft = path.with_file_name(&name[..name.len().min(24)]);
        let socket = UnixListener::bind(&draft).map_err(|source| state_error(&draft, source))?;
        Ok(Self {
            socket,
            draft,
            path,
            addr_file: config.addr_file(),
            up_file: config.up_file(),
        })
    }

    /// Puts both in their places; those of the process before us are replaced.
    ///
    /// Last of all the file says who serves here now, and how many calls it began with. May be
    /// tried again.
    pub(crate) fn put_up(&self, addr: SocketAddr, calls: usize) -> io::Result<()> {
        match std::fs::rename(&self.draft, &self.path) {
            // An earlier try came so far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        files::replace(&self.addr_file, addr.to_string().as_bytes())?;
        let up = Up {
            pid: std::process::id(),
            calls,
        };
        let up = serde_json::to_vec(&up).map_err(io::Error::other)?;
        files::replace(&self.up_file, &up)
    }
}

impl Drop for Doorplate {
    fn drop(&mut self) {
        // It is only there if it was never put up.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// Removes our address, so that nobody looks for us there. While we hold the listener the address
/// is ours alone, so the file is ours exactly if it names it.
pub(crate) fn take_down(config: &Config, listener: &TcpListener) {
    let file = config.addr_file();
    let Ok(addr) = listener.local_addr() else {
        return;
    };
    if std::fs::read_to_string(&file).is_ok_and(|named| named.trim() == addr.to_string())
        && let Err(error) = std::fs::remove_file(&file)
    {
        tracing::warn!(%error, "the address cannot be removed");
    }
}

/// What has come of a handoff.
#[derive(Default)]
struct Taken {
    /// Calls that came ahead, which the relay has, and go on.
    ahead: usize,
    /// The others of those, counted here until what became of them is known.
    gone: HashMap<u64, Ticket>,
    /// Calls that came as a whole.
    whole: Vec<LiveCall>,
    /// What ended meanwhile.
    late: Vec<Late>,
}

/// What calls of other processes go through on their way in.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) keeping: Arc<Keeping>,
    /// What became of connections that journals may still list.
    known: Arc<Mutex<Known>>,
}

impl Hands {
    pub(crate) fn new(config: &Config, ledger: &Arc<Ledger>) -> io::Result<Self> {
        let relay = Arc::new(Relay::start(config.shards)?);
        let keeping = Keeping::new(config.keeper_socket())?;
        let keep: Arc<dyn Keep> = Arc::<Keeping>::clone(&keeping);
        relay.keep_with(&keep);
        Ok(Self {
            ledger: Arc::clone(ledger),
            relay,
            keeping,
            known: Arc::default(),
        })
    }

    /// Takes everything from the gateway at `path`. Blocks.
    pub(crate) fn take_over(
        &self,
        path: &Path,
        gateway: GatewayId,
    ) -> Result<(TcpListener, Life, Taking), HandoffError> {
        let prepared = low::unhurried(|| {
            let taking = Taking::ask(path)?;
            let (mut header, listener) = taking.header()?;
            self.prepare(&taking, &mut header, &listener)?;
            Ok::<_, HandoffError>((taking, header, listener))
        });
        // Those that came ahead before it failed are the giver's.
        let (taking, header, listener) = prepared.inspect_err(|_| {
            let here = self.relay.give_all();
            here.into_iter().for_each(LiveCall::given);
        })?;
        let mut taken = Taken::default();
        if let Err(error) = self.take_calls(&taking, &header.wards, &mut taken) {
            let here = taken.whole.into_iter().chain(self.relay.give_all());
            here.for_each(LiveCall::given);
            taken.gone.into_values().for_each(Ticket::given);
            return Err(error);
        }
        self.relay.go_on();
        let count = taken.ahead + taken.whole.len();
        self.relay(taken.whole);
        self.ledger.adopt_late(taken.late, &mut taken.gone);
        // They are in nobody's hands that we know of.
        taken.gone.into_values().for_each(Ticket::given);
        tracing::info!(calls = count, "took over");
        let life = Life {
            gateway,
            incarnation: header.incarnation,
            sequence: header.sequence,
        };
        Ok((listener, life, taking))
    }

    /// Takes in what is sent while every call flows.
    fn prepare(
        &self,
        taking: &Taking,
        header: &mut Header,
        listener: &TcpListener,
    ) -> Result<(), HandoffError> {
        let now = clock::now();
        self.ledger.restore(std::mem::take(&mut header.ledger), now);
        self.begin(self.keeping.connect(), listener);
        let mut patience = HOLD_BACK_MAX;
        taking.ahead(|batch| self.await_calls(batch, now, &mut patience))
    }

    /// Takes the calls in, until they are ours. On an error they are the giver's, and what is in
    /// `taken` and in the relay is nothing.
    fn take_calls(
        &self,
        taking: &Taking,
        wards: &[WardId],
        taken: &mut Taken,
    ) -> Result<(), HandoffError> {
        // From here to the end every call stands still: what can be done before is done.
        let now = clock::now();
        let mut patience = HOLD_MAX;
        let whole = &mut taken.whole;
        let come = taking.calls(|batch| whole.extend(self.count(batch, now, &mut patience)))?;
        let count = come.deltas.len();
        taken.late = come.late;
        let caught_up = self.relay.catch_up(come.deltas);
        taken.ahead = caught_up.calls;
        taken.gone = caught_up.gone.into_iter().collect();
        self.keeping.let_go(&caught_up.released);
        if caught_up.calls != count {
            return Err(HandoffError::Protocol(
                "a change of a call that is not here",
            ));
        }
        let own = || self.keeping.own(wards, &mut patience);
        taking.confirm(self.keeping.ward(), own)
    }

    /// Counts calls here that the giver still relays, gives them into keeping, and has the relay
    /// wait with them.
    fn await_calls(
        &self,
        calls: Vec<AheadCall>,
        now: Timestamp,
        patience: &mut Duration,
    ) -> Result<(), HandoffError> {
        let mut awaited = Vec::with_capacity(calls.len());
        let counted = calls.into_iter().try_for_each(|call| {
            let number = call.number;
            let adopted = call.adopt(&self.ledger, now);
            let call = adopted.ok_or(HandoffError::Protocol("a call of an unknown agent"))?;
            let (_, call) = awaited.push_mut((number, call));
            Ok(call.enroll_ahead(self.relay.slots())?)
        });
        if counted.is_err() {
            for (_, call) in awaited {
                call.given();
            }
            return counted;
        }
        let held: Vec<Held<'_>> = awaited
            .iter()
            .filter_map(|(_, call)| call.to_hold())
            .collect();
        if self.keeping.hold_first(&held, patience) {
            for (_, call) in &mut awaited {
                call.set_held();
            }
        }
        Ok(self.relay.await_calls(awaited)?)
    }

    /// Takes what the giver hands over behind its calls, until it has no more. Blocks.
    pub(crate) fn take_late(&self, taking: &Taking, front: &Arc<Front>) {
        loop {
            match taking.next() {
                Ok(Some(Came::Guests(guests))) => {
                    for guest in guests {
                        front.go_on(guest);
                    }
                }
                Ok(Some(Came::Calls(calls))) => {
                    let now = clock::now();
                    for call in &calls {
                        self.ledger.stand_in(&call.moved.connection, now);
                    }
                    let adopt = |call: TakenCall| call.adopt(&self.ledger, now);
                    let calls: Vec<LiveCall> = calls.into_iter().filter_map(adopt).collect();
                    // Held only behind this: until then the keeper has them from nobody, and a
                    // giver that does not hear it goes on with them.
                    if let Err(error) = taking.took_late() {
                        tracing::warn!(%error, "calls that came late stay where they were");
                        calls.into_iter().for_each(LiveCall::given);
                        return;
                    }
                    tracing::info!(calls = calls.len(), "calls that stood late are here");
                    self.relay(calls);
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "what comes late is not understood, and stays there");
                    return;
                }
            }
        }
    }

    /// Listens, and takes back what the keeper holds of gateways that died. The tables must be
    /// installed. Blocks.
    pub(crate) fn take_back(&self, listen: SocketAddr) -> Result<TcpListener, RunError> {
        let mut session = self.keeping.connect();
        let orphans = match session.as_ref().map(Session::claim) {
            Some(Ok(orphans)) => orphans,
            Some(Err(error)) => {
                tracing::error!(%error, "the keeper does not say what it holds");
                // What it said by halves must not be heard by anyone.
                session = None;
                Vec::new()
            }
            None => Vec::new(),
        };
        keeper::fail_at("claimed");
        let mut recovered = Recovered::read(orphans);
        keeper::fail_at("read");
        let listener = match recovered.listener(listen) {
            Some(listener) => listener,
            None => bind(listen)?,
        };
        self.begin(session, &listener);
        self.take(recovered);
        Ok(listener)
    }

    /// Takes what gateways left that died beside us. Blocks.
    pub(crate) fn take_orphans(&self, orphans: Vec<Orphan>) {
        self.take(Recovered::read(orphans));
    }

    fn take(&self, recovered: Recovered) {
        let now = clock::now();
        self.known().extend(recovered.known());
        let Recovered {
            calls, lost, wards, ..
        } = recovered;
        for call in &calls {
            self.ledger.stand_in(&call.moved.connection, now);
        }
        let patience = &mut { HOLD_BACK_MAX };
        let calls = self.count(calls, now, patience);
        keeper::fail_at("held");
        let count = calls.len();
        self.keeping.own(&wards, patience);
        keeper::fail_at("owned");
        self.relay(calls);
        keeper::fail_at("relayed");
        if !wards.is_empty() {
            let lost = lost.len();
            tracing::warn!(
                calls = count,
                lost,
                "took back the calls of a gateway that died"
            );
        }
        self.ledger.count_lost(&lost, now);
    }

    /// Begins to give into keeping what we have.
    fn begin(&self, session: Option<Session>, listener: &TcpListener) {
        let again = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .inspect_err(|error| tracing::warn!(%error, "it is not kept"))
                .ok()
        };
        let memory = self.relay.slots().memory().and_then(again);
        self.keeping.begin(session, memory, again(listener.as_fd()));
    }

    /// Counts calls here and gives them into keeping. Nobody relays them yet.
    fn count(
        &self,
        calls: Vec<TakenCall>,
        now: Timestamp,
        patience: &mut Duration,
    ) -> Vec<LiveCall> {
        let adopt = |call: TakenCall| call.adopt(&self.ledger, now);
        let mut calls: Vec<LiveCall> = calls.into_iter().filter_map(adopt).collect();
        for call in &mut calls {
            if let Err(error) = call.enroll(self.relay.slots()) {
                tracing::warn!(%error, "a call goes on unkept");
            }
        }
        keeper::fail_at("counted");
        let held: Vec<Held<'_>> = calls.iter().filter_map(LiveCall::to_hold).collect();
        if self.keeping.hold_first(&held, patience) {
            calls.iter_mut().for_each(LiveCall::set_held);
        }
        calls
    }

    fn relay(&self, calls: Vec<LiveCall>) {
        for call in calls {
            self.relay.adopt(call);
        }
    }

    /// Keeps what we have in keeping, until [`Keeping::bye`] or [`Keeping::give`].
    pub(crate) fn keep(&self) -> io::Result<()> {
        let (relay, hands) = (Arc::clone(&self.relay), self.clone());
        let adopt = move |orphans| hands.take_orphans(orphans);
        // It ends when it is told.
        self.keeping.run(relay, adopt).map(drop)
    }

    /// Takes out of what a journal lists as lost what was taken back, or is known to be lost.
    pub(crate) fn strike_known(&self, lost: &mut Vec<Lost>) {
        self.known().strike_from(lost);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whole after every change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the pins of a gateway that ended or was killed, and names what was lost with it.
    /// Not behind a handoff, which brings everything. The tables must be installed, and the
    /// listener ours: it says that no other gateway takes calls by this state directory.
    pub(crate) fn recover(&self, config: &Config) {
        match journal::read(&config.journal_file()) {
            Ok(mut left) => {
                self.strike_known(&mut left.lost);
                let (calls, lost) = (left.calls.len(), left.lost.len());
                tracing::info!(calls, lost, "read the call journal");
                if left.alive
                    && let Err(error) = journal::aside::put(&config.journal_file())
                {
                    tracing::error!(%error, "what the other gateway may lose will not be counted");
                }
                self.ledger.recover(left, clock::now());
            }
            Err(error) => tracing::error!(%error, "the call journal cannot be read"),
        }
    }
}

pub(crate) fn bind(addr: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    };
    listen().map_err(|source| RunError::Listen { addr, source })
}

pub(crate) fn make_directories(config: &Config) -> Result<(), RunError> {
    for name in ["gateway", "log", "run"] {
        let path = config.state_dir.join(name);
        files::private_dir(&path).map_err(|source| state_error(&path, source))?;
    }
    Ok(())
}

pub(crate) fn state_error(path: &Path, source: io::Error) -> RunError {
    RunError::State {
        path: path.to_owned(),
        source,
    }
}
