//! The controller from its start to its end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use segue_core::names::AgentName;
use segue_core::rollout::Agent;
use segue_core::spec::AgentSpec;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::api::{self, Api};
use crate::copies::Copies;
use crate::driver::{self, ASKS_MAX, Driver, HEARD_MAX, Parts};
use crate::link::{self, Link};
use crate::platform::Platform;
use crate::platform::process::ProcessPlatform;
use crate::secret;
use crate::smoke::{Door, Smoker};
use crate::state::StateDir;
use crate::store::{Journal, SqliteJournal, StoreError};

/// How long a decision that is being made may take to finish when the controller is to end. More
/// than one that waits for a locked journal takes; who supervises us is less patient than a disk
/// that is stuck.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where everything is kept. Of several controllers only one may use it.
    pub state_dir: PathBuf,
    /// Where the admin API listens: on loopback. Port 0: any; see `run/api.addr`.
    pub api: SocketAddr,
    /// The agents.
    pub agents: BTreeMap<AgentName, AgentSpec>,
    /// Where the configuration is: directories in it are relative to this one.
    pub config_dir: PathBuf,
    /// The gateway's certificate (PEM, leaf first), if it takes calls over TLS only. It is read for
    /// each smoke test, so it may be replaced at any time.
    pub gateway_tls: Option<PathBuf>,
}

/// Why the controller did not start or had to end. Calls and workers are untouched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The operator starts only one, or gives each its own directory.
    #[error("another controller uses {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The operator chooses a loopback address.
    #[error("the admin API may listen on loopback only, not on {addr}")]
    NotLoopback {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The operator mends the directory or its rights.
    #[error("{what}")]
    Io {
        /// What could not be done.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operator frees or mends the journal.
    #[error("the journal could not be opened")]
    Journal(#[source] StoreError),
    /// The driver, the link or the API ended by itself: a bug.
    #[error("the {0} ended unexpectedly")]
    Ended(&'static str),
}

impl RunError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Locked { .. } => {
                "`segue status` shows whether it works; to run a second Segue give it its own `--state`"
            }
            Self::NotLoopback { .. } => "write listen = \"127.0.0.1:7070\" below [api]",
            Self::Io { .. } => "see that the directory exists, is yours, and its path is short",
            Self::Journal(StoreError::TooNew { .. }) => "start the newer Segue again",
            Self::Journal(_) => "end the program that holds it, or restore journal.db from a copy",
            Self::Ended(_) => "start it again, and report it with its log",
        }
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    |source| RunError::Io { what, source }
}

/// Runs the controller until `shutdown`. When it ends, in whatever way, gateways go on by the
/// tables they have and workers run on; the next one takes both over.
///
/// # Errors
///
/// When it cannot start. Nothing was changed then but the state directory.
pub async fn run(
    config: ControllerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    if !config.api.ip().is_loopback() {
        return Err(RunError::NotLoopback { addr: config.api });
    }
    let state = StateDir::new(&config.state_dir);
    let directory = config.state_dir.display();
    state
        .create()
        .map_err(failed(format!("cannot make {directory}")))?;
    let _lock = lock(&state)?;
    let api_token = secret::token(&state.api_token());
    let api_token = api_token.map_err(failed("cannot read the token of the API"))?;
    let override_token = secret::token(&state.override_token());
    let override_token = override_token.map_err(failed("cannot read the override token"))?;
    let journal = open_journal(&state).await?;

    let bell = Arc::new(Notify::new());
    let copies = Copies::new(&state);
    let platform = ProcessPlatform::new(state.clone(), copies.clone(), Arc::clone(&bell));
    let platform = Arc::new(platform);
    let link = Link::default();
    let specs = Arc::new(config.agents);
    let override_digest = secret::digest(&override_token);
    let door = Door {
        state: state.clone(),
        token: override_token,
        certificate: config.gateway_tls,
    };
    let parts = Parts {
        specs: Arc::clone(&specs),
        journal: Arc::clone(&journal),
        link: link.clone(),
        platform: Arc::clone(&platform) as Arc<dyn Platform>,
        override_digest,
        smoker: Smoker::new(door, Arc::clone(&bell)),
        copies: copies.clone(),
        bell,
    };
    let driver = Driver::load(parts).await.map_err(RunError::Journal)?;
    adopt(&platform, &driver).map_err(failed("cannot find the running workers again"))?;

    let socket = state.control_socket();
    let control =
        link::bind(&socket).map_err(failed(format!("cannot make {}", socket.display())))?;
    let listener = TcpListener::bind(config.api).await;
    let listener = listener.map_err(failed(format!("cannot listen on {}", config.api)))?;
    let addr = listener
        .local_addr()
        .map_err(failed("the API has no address"))?;
    secret::write_private(&state.api_addr(), format!("{addr}\n").as_bytes())
        .map_err(failed("cannot write run/api.addr"))?;
    tracing::info!(%addr, "the admin API listens");

    let (asks, to_driver) = mpsc::channel(ASKS_MAX);
    let (heard, from_gateways) = mpsc::channel(HEARD_MAX);
    let router = api::router(Arc::new(Api {
        specs,
        config_dir: config.config_dir,
        copies,
        token: api_token,
        driver: asks,
        link: link.clone(),
        journal,
    }));
    let (stop, stopped) = oneshot::channel();
    let mut driving = Box::pin(driver.run(to_driver, from_gateways, stopped));
    let mut serving = Box::pin(link.serve(control, heard));
    tokio::select! {
        () = shutdown => {}
        () = &mut driving => return Err(RunError::Ended("driver")),
        () = &mut serving => return Err(RunError::Ended("link")),
        _ = axum::serve(listener, router) => return Err(RunError::Ended("API")),
    }
    drop(stop);
    // Gateways hear of the last decision too.
    let finished = async {
        tokio::select! {
            () = driving => {}
            () = serving => {}
        }
    };
    if timeout(FINISH_MAX, finished).await.is_err() {
        tracing::warn!(
            "a decision was still being written down; the next controller finds out whether it was"
        );
    }
    tracing::info!("the controller ends; gateways and workers go on");
    Ok(())
}

fn lock(state: &StateDir) -> Result<std::fs::File, RunError> {
    state.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => RunError::Locked {
            path: state.path().to_owned(),
        },
        _ => failed("cannot take the lock of the state directory")(error),
    })
}

async fn open_journal(state: &StateDir) -> Result<Arc<dyn Journal>, RunError> {
    let path = state.journal();
    let opened = driver::blocking(move || SqliteJournal::open(&path)).await;
    Ok(Arc::new(opened.map_err(RunError::Journal)?))
}

fn adopt(platform: &ProcessPlatform, driver: &Driver) -> io::Result<()> {
    let agents: BTreeMap<&AgentName, &Agent> =
        driver.agents().map(|agent| (&agent.name, agent)).collect();
    platform.adopt(&|agent, release| {
        let record = agents.get(agent)?.releases.get(&release)?;
        Some(record.release.clone())
    })
}
