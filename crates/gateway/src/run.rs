//! The life of a gateway process: take or bind, serve. How it ends is in [`offer`](crate::offer).

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::call_log::CallLog;
use crate::clock;
use crate::config::Config;
use crate::descriptors;
use crate::front::{Front, prepare};
use crate::handoff::{Giving, HandoffError, Taking};
use crate::health::Health;
use crate::journal;
use crate::keeper::Keeping;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::linked::LinkedGateway;
use crate::relay::{Listening, Relay};
use crate::report::{Life, Reporter};
use crate::setup::{Doorplate, Hands, make_directories, state_error};
use crate::stop::Stoppable;
use crate::tables::TableFile;
use crate::tls::{Tls, TlsError};

/// How often the journals of processes that drain beside us are looked at.
const ASIDE_EVERY: Duration = Duration::from_secs(1);

/// How often it is tried again to be found. The disk may be full for a moment, and calls are here.
const FOUND_EVERY: Duration = Duration::from_secs(1);

/// Why a gateway did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another program has the port, or the address is not ours.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot use {path}")]
    State {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The TLS identity cannot be used.
    #[error("the TLS identity cannot be used")]
    Tls(#[from] TlsError),
    /// The running gateway did not hand over; it goes on serving.
    #[error("cannot take over from {path}")]
    Takeover {
        /// The running gateway's socket.
        path: PathBuf,
        /// Why.
        source: HandoffError,
    },
    /// The operating system has no thread, descriptor or signal for us.
    #[error("the operating system refuses a resource")]
    System(#[from] io::Error),
}

/// Runs a gateway until `shutdown` is ready and every call has ended, or until another gateway has
/// taken everything over.
///
/// While calls are taken, the bound address is in `run/gateway.addr` below the state directory.
/// SIGHUP reads the TLS identity again.
///
/// # Errors
///
/// A [`RunError`], before any call was taken.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    descriptors::make_room();
    make_directories(&config)?;
    // Everything that can fail comes before calls are taken over: an error behind that would end
    // them.
    let mut hangup = signal(SignalKind::hangup())?;
    let handoff = Doorplate::prepare(&config)?;
    let mut gateway = Gateway::start(config, &handoff).await?;
    tokio::pin!(shutdown);
    let given = loop {
        tokio::select! {
            () = &mut shutdown => break false,
            Some(()) = hangup.recv() => gateway.reload(),
            () = sleep(FOUND_EVERY), if !gateway.is_found => gateway.be_found(&handoff),
            offer = handoff.socket.accept() => match offer {
                Ok((stream, _)) => if gateway.offer(stream).await {
                    break true;
                },
                Err(error) => tracing::warn!(%error, "a takeover could not be heard"),
            },
        }
    };
    drop(handoff);
    gateway.drain(given, &mut hangup).await;
    Ok(())
}

pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) log: CallLog,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) keeping: Arc<Keeping>,
    pub(crate) front: Arc<Front>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) tables: Arc<TableFile>,
    pub(crate) listener: TcpListener,
    pub(crate) accepting: Option<Accepting>,
    pub(crate) link: Option<Stoppable>,
    /// Who looks for us finds us: callers, and the next gateway.
    pub(crate) is_found: bool,
    pub(crate) health: JoinHandle<()>,
    /// Counts what is lost with processes that drain beside us.
    pub(crate) aside: JoinHandle<()>,
    /// Who has taken our calls, while some may come behind.
    pub(crate) taker: Option<Giving>,
    /// Our journal, once another process has the usual one.
    pub(crate) journal: Option<PathBuf>,
}

/// Who takes new connections.
pub(crate) enum Accepting {
    /// The relay's threads, which set up ordinary calls by themselves.
    Shards(Listening),
    /// A task: a TLS session is nothing for a relay's thread before it stands.
    Task(Stoppable),
}

impl Accepting {
    /// Tells it, and waits at most so long.
    pub(crate) async fn stop(self, patience: Duration) {
        match self {
            Self::Shards(listening) => {
                let stopping = listening.stop();
                let stopped = blocking(move || stopping.wait());
                if timeout(patience, stopped).await.is_err() {
                    tracing::warn!("a relay thread is slow to stop taking calls");
                }
            }
            Self::Task(task) => task.stop(patience).await,
        }
    }
}

impl Gateway {
    async fn start(config: Config, doorplate: &Doorplate) -> Result<Self, RunError> {
        let tls = match config.tls.clone() {
            Some(files) => Some(Arc::new(Tls::load(files)?)),
            None => None,
        };
        let log_file = config.call_log_file();
        let log = CallLog::open(&log_file).map_err(|source| state_error(&log_file, source))?;
        let ledger = Ledger::new(Some(log.clone()));
        let hands = Hands::new(&config, &ledger)?;
        let mut giver = None;
        let (listener, life, tables) = if let Some(path) = config.takeover.clone() {
            let (hands, gateway) = (hands.clone(), config.gateway.clone());
            let taken = blocking(move || {
                let taken = hands.take_over(&path, gateway);
                taken.map_err(|source| RunError::Takeover { path, source })
            });
            let (listener, life, taking) = taken.await?;
            giver = Some(taking);
            // Behind the takeover: until then the process before us writes the file.
            (listener, life, load_tables(&config, &ledger))
        } else {
            let tables = load_tables(&config, &ledger);
            let (back, listen) = (hands.clone(), config.listen);
            let listener = blocking(move || back.take_back(listen)).await?;
            // Calls that were taken back flow. New ones wait until their pins are known.
            hands.recover(&config);
            // Before the journal forgets them: rather named twice than never.
            log.flush();
            (listener, Life::new(config.gateway.clone()), tables)
        };
        if let Err(error) = ledger.journal(&config.journal_file()) {
            tracing::error!(%error, "calls are not journaled");
        }
        if let Err(error) = hands.keep() {
            tracing::error!(%error, "calls are not kept");
        }
        let health = Arc::new(Health::default());
        let front = Front::new(
            Arc::clone(&ledger),
            Arc::clone(&hands.relay),
            Arc::clone(&health),
            tls,
            config.limits,
        );
        if let Some(taking) = giver {
            take_late(taking, hands.clone(), Arc::clone(&front));
        }
        let watching = health.watch(Arc::clone(&ledger));
        let mut gateway = Self {
            reporter: Arc::new(Reporter::new(Arc::clone(&ledger), life)),
            health: tokio::spawn(watching),
            aside: tokio::spawn(watch_aside(
                config.journal_file(),
                hands.clone(),
                log.clone(),
            )),
            taker: None,
            journal: None,
            tables: Arc::new(tables),
            accepting: None,
            is_found: false,
            link: None,
            config,
            log,
            ledger,
            relay: hands.relay,
            keeping: hands.keeping,
            front,
            listener,
        };
        let addr = gateway
            .listener
            .local_addr()
            .unwrap_or(gateway.config.listen);
        if gateway.config.listen.port() != 0 && gateway.config.listen != addr {
            let asked = gateway.config.listen;
            tracing::warn!(%addr, %asked, "the listener that was taken over listens elsewhere");
        }
        if gateway.config.takeover.is_some() {
            gateway.be_found(doorplate);
        } else {
            gateway.serve(doorplate)?;
        }
        gateway.report(true);
        Ok(gateway)
    }

    /// Takes new calls, and says where. May be tried again.
    fn serve(&mut self, doorplate: &Doorplate) -> io::Result<()> {
        if self.accepting.is_none() {
            self.accept()?;
        }
        let addr = self.listener.local_addr()?;
        doorplate.put_up(addr, *self.ledger.open().borrow())?;
        self.is_found = true;
        tracing::info!(%addr, gateway = %self.config.gateway, "taking calls");
        Ok(())
    }

    /// The same with calls that were taken over, which must not end for it.
    fn be_found(&mut self, doorplate: &Doorplate) {
        if let Err(error) = self.serve(doorplate) {
            tracing::error!(%error, "took calls over, but cannot be fully reached");
        }
    }

    pub(crate) fn accept(&mut self) -> io::Result<()> {
        let front = Arc::clone(&self.front);
        prepare(&self.listener);
        self.accepting = Some(if front.tls.is_none() {
            Accepting::Shards(self.relay.listen(&self.listener, &front)?)
        } else {
            let listener = tokio::net::TcpListener::from_std(self.listener.try_clone()?)?;
            Accepting::Task(Stoppable::start(|stop| async move {
                front.accept(&listener, stop).await;
            }))
        });
        Ok(())
    }

    pub(crate) fn report(&mut self, keeps_tables: bool) {
        let link = Link {
            socket: self.config.control_socket.clone(),
            linked: Arc::new(LinkedGateway {
                ledger: Arc::clone(&self.ledger),
                relay: Arc::clone(&self.relay),
                reporter: Arc::clone(&self.reporter),
            }),
            tables: keeps_tables.then(|| Arc::clone(&self.tables)),
        };
        self.link = Some(Stoppable::start(|stop| link.run(stop)));
    }

    fn reload(&self) {
        match self.front.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(())) => tracing::info!("the TLS identity was read again"),
            Some(Err(error)) => tracing::error!(%error, "the TLS identity before stays in use"),
            None => {}
        }
    }
}

fn load_tables(config: &Config, ledger: &Ledger) -> TableFile {
    let (tables, loaded) = TableFile::load(&config.tables_file());
    match loaded {
        Ok(loaded) => {
            for table in loaded {
                // What the process before us had is at least as new.
                let _ = ledger.install(table, clock::now());
            }
        }
        Err(error) => tracing::error!(%error, "starting without tables"),
    }
    tables
}

/// On a thread of its own, which no end of this process waits for.
fn take_late(taking: Taking, hands: Hands, front: Arc<Front>) {
    let runtime = tokio::runtime::Handle::current();
    let takes = move || {
        let _inside = runtime.enter();
        hands.take_late(&taking, &front);
    };
    let thread = std::thread::Builder::new().name("late".to_owned());
    if let Err(error) = thread.spawn(takes) {
        // Whoever gives hears that nobody is there.
        tracing::error!(%error, "what comes late stays with the other gateway");
    }
}

/// Never ends.
async fn watch_aside(journal: PathBuf, hands: Hands, log: CallLog) {
    let mut counted = BTreeSet::new();
    let mut tick = interval(ASIDE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (journal, hands, log) = (journal.clone(), hands.clone(), log.clone());
        let mut known = std::mem::take(&mut counted);
        let looked = blocking(move || {
            let looked = journal::aside::ended(&journal, &mut known, |mut lost| {
                // Its calls may be on their way here.
                hands.keeping.settle();
                hands.strike_known(&mut lost);
                hands.ledger.count_lost(&lost, clock::now());
                log.flush();
            });
            (looked, known)
        });
        let (looked, known) = looked.await;
        counted = known;
        if let Err(error) = looked {
            tracing::debug!(%error, "journals of other gateways cannot be looked at");
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("blocking work does not panic and is not aborted")
}
