//! The life of a dispatcher process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use segue_core::dispatch::{Dispatcher, Event};
use segue_core::plane::ConnectedWorker;
use segue_gateway::clock;
use segue_gateway::link::Link;
use segue_gateway::tables::TableFile;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::admit::Admit;
use crate::config::Config;
use crate::hub::Hub;
use crate::job_file::JobFile;
use crate::link::LinkedDispatcher;
use crate::server;

/// How long the last report may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// One that was killed a moment ago may not be gone yet.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How often the lock is tried.
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// How often the jobs are counted while they end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a dispatcher did not start.
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
    /// The state directory has a dispatcher already. Its files are as they were.
    #[error("another dispatcher runs here: it holds {path}")]
    Taken {
        /// Its lock.
        path: PathBuf,
    },
    /// The state directory cannot be used.
    #[error("cannot use {path}")]
    State {
        /// What in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A dispatcher that runs. Dropping it ends it as a kill would, but for its tasks.
pub struct Running {
    /// Where workers connect to.
    pub addr: SocketAddr,
    hub: Arc<Hub>,
    tasks: Vec<JoinHandle<()>>,
    link: Option<JoinHandle<()>>,
    /// Keeps others out. A kill frees it.
    _lock: File,
}

impl Running {
    /// Connected workers, by id.
    pub fn workers(&self) -> Vec<ConnectedWorker> {
        self.hub.list_workers(None, usize::MAX)
    }

    /// Takes no further job, and waits until those that are have ended.
    pub async fn drain(&self) {
        self.hub.step(Event::Stop);
        while self.hub.job_count() > 0 {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Tells the controller how things stand, and ends. Jobs go on; their workers look for the next
    /// dispatcher, which knows them.
    pub async fn stop(mut self) {
        self.hub.stop.send_replace(true);
        if let Some(link) = self.link.take() {
            // Nothing depends on it: the next dispatcher says the same.
            let _ = timeout(GOODBYE_MAX, link).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.link) {
            task.abort();
        }
    }
}

/// Starts a dispatcher with the jobs of the one before it. Its address is in `run/dispatch.addr`
/// below the state directory.
///
/// # Errors
///
/// A [`RunError`], before any worker was let in.
pub async fn start(config: Config, admit: Arc<dyn Admit>) -> Result<Running, RunError> {
    let state = |path: PathBuf| move |source| RunError::State { path, source };
    let folders = [config.jobs_file(), config.log_file(), config.addr_file()];
    for folder in folders.iter().filter_map(|file| file.parent()) {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(state(folder.to_owned()))?;
    }
    let path = config.lock_file();
    let lock = lock(&path).await.map_err(state(path.clone()))?;
    let lock = lock.ok_or(RunError::Taken { path })?;
    let listen = config.listen;
    let bound = match door(&config) {
        Some(door) => door,
        None => TcpListener::bind(listen).await,
    };
    let listener = bound.map_err(|source| RunError::Listen {
        addr: listen,
        source,
    })?;
    let path = config.jobs_file();
    let (file, kept) = JobFile::open(&path).map_err(state(path))?;
    let path = config.log_file();
    let mut options = OpenOptions::new();
    let log = options.append(true).create(true).mode(0o600).open(&path);
    let log = log.map_err(state(path))?;
    if !kept.jobs.is_empty() {
        let jobs = kept.jobs.len();
        tracing::info!(
            jobs,
            "jobs of the dispatcher before go on; their workers are waited for"
        );
    }
    let agents = config.agents.iter();
    let settings = agents.map(|(agent, of)| (agent.clone(), of.settings()));
    let jobs = kept.jobs.into_values().collect();
    let dispatcher = Dispatcher::new(settings.collect(), jobs, clock::now());
    let dispatcher = dispatcher.with_vacancies(kept.rooms.into_values().collect());
    let (tables, loaded) = TableFile::load(&config.tables_file());
    let loaded = loaded.unwrap_or_else(|error| {
        tracing::error!(%error, "starting without tables");
        Vec::new()
    });
    let addr = listener.local_addr().unwrap_or(listen);
    let hub = Hub::new(config, admit, dispatcher, file, log);
    for table in loaded {
        hub.step(Event::Table(Box::new(table)));
    }
    let link = Link {
        socket: hub.config.control_socket.clone(),
        linked: Arc::new(LinkedDispatcher {
            hub: Arc::clone(&hub),
            incarnation: uuid::Uuid::now_v7().to_string(),
            sequence: Mutex::new(0),
        }),
        tables: Some(Arc::new(tables)),
    };
    let link = tokio::spawn(link.run(hub.stop.subscribe()));
    let tasks = vec![
        tokio::spawn(Arc::clone(&hub).ring()),
        tokio::spawn(Arc::clone(&hub).watch_standing()),
        tokio::spawn(server::accept(Arc::clone(&hub), listener)),
    ];
    let path = hub.config.addr_file();
    fs::write(&path, addr.to_string()).map_err(state(path))?;
    tracing::info!(%addr, server = %hub.config.server, "workers are served");
    Ok(Running {
        addr,
        hub,
        tasks,
        link: Some(link),
        _lock: lock,
    })
}

/// The socket that is kept for us, if it is where we are to listen.
fn door(config: &Config) -> Option<io::Result<TcpListener>> {
    let door = config.door.as_ref()?;
    let (addr, listen) = (door.local_addr().ok()?, config.listen);
    if addr.ip() != listen.ip() || (addr.port() != listen.port() && listen.port() != 0) {
        tracing::warn!(%addr, %listen, "the socket that was kept is for another address");
        return None;
    }
    let own = door.try_clone().and_then(|own| {
        own.set_nonblocking(true)?;
        TcpListener::from_std(own)
    });
    Some(own)
}

/// `None`: somebody else has it, also after [`LOCK_WAIT`].
async fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begun.elapsed() >= LOCK_WAIT => return Ok(None),
            Err(TryLockError::WouldBlock) => sleep(LOCK_EVERY).await,
        }
    }
}

/// Runs a dispatcher until `shutdown` is ready and every job has ended. To replace it at once it may
/// be killed: the next one goes on with its jobs.
///
/// # Errors
///
/// A [`RunError`], before any worker was let in.
pub async fn run(
    config: Config,
    admit: Arc<dyn Admit>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let running = start(config, admit).await?;
    shutdown.await;
    tracing::info!("no further jobs are taken; it ends with the last one");
    running.drain().await;
    running.stop().await;
    Ok(())
}
