//! The controller from its start to its end.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use segue_core::names::AgentName;
use segue_core::rollout::Agent;
use segue_core::spec::{AgentSpec, NotifySpec, TelemetrySpec};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use tokio_rustls::TlsAcceptor;

use crate::api::{self, Access, Api, ApiConfig, Tokens};
use crate::copies::Copies;
use crate::driver::{self, ASKS_MAX, Driver, HEARD_MAX, Parts};
use crate::follow::Follower;
use crate::hooks::Hooks;
use crate::link::{self, Link};
use crate::outside::Outside;
use crate::platform::Platform;
use crate::platform::process::ProcessPlatform;
use crate::secret;
use crate::smoke::{Door, Smoker};
use crate::specs::{Reloader, Source, Specs};
use crate::state::StateDir;
use crate::store::{CallStates, ControlStore, Journal, SqliteControl, SqliteJournal, StoreError};

/// How long a decision that is being made may take to finish when the controller is to end. More
/// than one that waits for a locked journal takes; who supervises us is less patient than a disk
/// that is stuck.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where everything is kept. Of several controllers only one may use it.
    pub state_dir: PathBuf,
    /// How the admin API is reached.
    pub api: ApiConfig,
    /// The agents.
    pub agents: BTreeMap<AgentName, AgentSpec>,
    /// Where the configuration is: directories in it are relative to this one.
    pub config_dir: PathBuf,
    /// The gateway's certificate (PEM, leaf first), if it takes calls over TLS only. It is read for
    /// each smoke test, so it may be replaced at any time.
    pub gateway_tls: Option<PathBuf>,
    /// Who is told of decisions.
    pub notify: Vec<NotifySpec>,
    /// Where traces go.
    pub telemetry: TelemetrySpec,
    /// The configuration file, to be read again on SIGHUP or when somebody asks; `None`: there is
    /// none.
    pub source: Option<Source>,
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
    /// The operator chooses a loopback address, or gives the API an identity.
    #[error("without TLS the admin API may listen on loopback only, not on {addr}")]
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
    /// The operator frees or mends the file of tokens, or that of call state.
    #[error("the tokens or the state of calls could not be opened")]
    Store(#[source] StoreError),
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
            Self::NotLoopback { .. } => {
                "write tls = { cert = \"FILE\", key = \"FILE\" } below [api], or listen = \"127.0.0.1:7070\""
            }
            Self::Io { .. } => "see that the directory exists, is yours, and its path is short",
            Self::Journal(StoreError::TooNew { .. }) => "start the newer Segue again",
            Self::Journal(_) => "end the program that holds it, or restore journal.db from a copy",
            Self::Store(_) => {
                "end the program that holds control.db or calls.db; either may be moved away, and with it its tokens or states"
            }
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
    if !config.api.listen.ip().is_loopback() && config.api.tls.is_none() {
        return Err(RunError::NotLoopback {
            addr: config.api.listen,
        });
    }
    let state = StateDir::new(&config.state_dir);
    let directory = config.state_dir.display();
    state
        .create()
        .map_err(failed(format!("cannot make {directory}")))?;
    let _lock = lock(&state)?;
    let Secrets {
        api,
        worker,
        overrides,
        calls: call_key,
    } = Secrets::read(&state)?;
    let journal = open_journal(&state).await?;
    let (keys, states, tokens) = open_small(&state, (api, worker)).await?;

    let (notify, telemetry) = (config.notify, config.telemetry);
    let outside = Outside::open(&state, &config.config_dir, notify, telemetry).await;
    let outside = outside.map_err(RunError::Store)?;

    let bell = Arc::new(Notify::new());
    let copies = Copies::new(&state);
    let platform = ProcessPlatform::new(state.clone(), copies.clone(), Arc::clone(&bell));
    let platform = Arc::new(platform);
    let link = Link::default();
    let outreach = outside.outreach(&state, &link, &bell, &call_key).await;
    let outreach = outreach.map_err(RunError::Store)?;
    let specs = Specs::new(config.agents);
    let reloader = Arc::new(Reloader::new(config.source, specs.clone()));
    let (announce, head) = watch::channel(0);
    let override_digest = secret::digest(&overrides);
    let door = Door {
        state: state.clone(),
        token: overrides,
        certificate: config.gateway_tls,
    };
    let parts = Parts {
        specs: specs.clone(),
        journal: Arc::clone(&journal),
        link: link.clone(),
        platform: Arc::clone(&platform) as Arc<dyn Platform>,
        override_digest,
        smoker: Smoker::new(door, Arc::clone(&bell)),
        copies: copies.clone(),
        hooks: Hooks::new(state.clone(), copies.clone(), Arc::clone(&bell)),
        outreach,
        bell,
        announce,
    };
    let driver = Driver::load(parts).await.map_err(RunError::Journal)?;
    adopt(&platform, &driver).map_err(failed("cannot find the running workers again"))?;

    let socket = state.control_socket();
    let control =
        link::bind(&socket).map_err(failed(format!("cannot make {}", socket.display())))?;
    let doors = listen(&state, &config.api).await?;
    tell_workers(&platform, &state, &doors)?;

    let metrics = Arc::clone(&outside.metrics);
    let follower = || Follower::new(Arc::clone(&journal), head.clone());
    let _telling = outside.start(&link, follower);
    let (asks, to_driver) = mpsc::channel(ASKS_MAX);
    let mut reloading = Box::pin(reload_on_hangup(reloader.clone(), asks.clone()));
    let (heard, from_gateways) = mpsc::channel(HEARD_MAX);
    let router = api::router(Arc::new(Api {
        specs,
        reloader: Arc::clone(&reloader),
        config_dir: config.config_dir,
        copies,
        driver: asks,
        head: head.clone(),
        link: link.clone(),
        journal: Arc::clone(&journal),
        control: keys,
        states,
        tokens,
        access: Access::new(&config.api),
        metrics,
    }));
    let (stop, stopped) = oneshot::channel();
    let mut driving = Box::pin(driver.run(to_driver, from_gateways, stopped));
    let mut serving = Box::pin(link.serve(control, heard));
    tokio::select! {
        () = shutdown => {}
        () = &mut driving => return Err(RunError::Ended("driver")),
        () = &mut serving => return Err(RunError::Ended("link")),
        error = &mut reloading => return Err(error),
        () = doors.serve(router) => return Err(RunError::Ended("API")),
    }
    drop(stop);
    finish(driving, serving).await;
    tracing::info!("the controller ends; gateways and workers go on");
    Ok(())
}

/// Reads the configuration again on SIGHUP. Returns only when that cannot be heard.
async fn reload_on_hangup(
    reloader: Arc<Reloader>,
    driver: mpsc::Sender<driver::Message>,
) -> RunError {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return failed("cannot listen for SIGHUP")(error),
    };
    while hangup.recv().await.is_some() {
        let again = Arc::clone(&reloader);
        match tokio::task::spawn_blocking(move || again.reload()).await {
            Ok(Ok(_)) => {
                // If it is gone, so are we.
                let _ = driver.send(driver::Message::Reloaded).await;
            }
            Ok(Err(error)) => tracing::error!(%error, "nothing was taken from the configuration"),
            Err(error) => tracing::error!(%error, "the configuration could not be read again"),
        }
    }
    std::future::pending().await
}

/// Where the admin API is asked.
struct Doors {
    local: TcpListener,
    /// Beside it, with TLS.
    tls: Option<(TcpListener, TlsAcceptor)>,
}

impl Doors {
    async fn serve(self, router: axum::Router) {
        let local = api::serve(self.local, None, router.clone());
        match self.tls {
            None => local.await,
            Some((listener, acceptor)) => {
                tokio::select! {
                    () = local => {}
                    () = api::serve(listener, Some(acceptor), router) => {}
                }
            }
        }
    }
}

/// Workers keep the state of their calls by the API. One that was started by an earlier controller
/// knows where that one listened.
fn tell_workers(
    platform: &ProcessPlatform,
    state: &StateDir,
    doors: &Doors,
) -> Result<(), RunError> {
    let addr = doors.local.local_addr();
    let addr = addr.map_err(failed("the API has no address"))?;
    let token = std::path::absolute(state.worker_token());
    let token = token.map_err(failed("the token of workers has no path"))?;
    platform.tell(BTreeMap::from([
        ("SEGUE_API_URL".to_owned(), format!("http://{addr}")),
        (
            "SEGUE_TOKEN_FILE".to_owned(),
            token.to_string_lossy().into_owned(),
        ),
    ]));
    Ok(())
}

/// With TLS, there is a port of loopback without it beside: `segue` on this machine need not mind
/// names and certificates.
async fn listen(state: &StateDir, config: &ApiConfig) -> Result<Doors, RunError> {
    let Some(files) = &config.tls else {
        let local = bind(config.listen, &state.api_addr()).await?;
        return Ok(Doors { local, tls: None });
    };
    let acceptor = api::acceptor(files).map_err(failed("cannot use the identity of the API"))?;
    let listener = bind(config.listen, &state.api_tls_addr()).await?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let local = bind(any, &state.api_addr()).await?;
    let tls = Some((listener, acceptor));
    Ok(Doors { local, tls })
}

/// Listens, and writes down where.
async fn bind(at: SocketAddr, file: &Path) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(at).await;
    let listener = listener.map_err(failed(format!("cannot listen on {at}")))?;
    let addr = listener.local_addr();
    let addr = addr.map_err(failed("the API has no address"))?;
    let wrote = secret::write_private(file, format!("{addr}\n").as_bytes());
    wrote.map_err(failed(format!("cannot write {}", file.display())))?;
    tracing::info!(%addr, "the admin API listens");
    Ok(listener)
}

/// The smaller stores, and the tokens in one of them.
async fn open_small(
    state: &StateDir,
    (api_token, worker_token): (String, String),
) -> Result<(Arc<dyn ControlStore>, Arc<CallStates>, Tokens), RunError> {
    let (control, calls) = (state.control(), state.call_states());
    let opened = driver::blocking(move || {
        let control: Arc<dyn ControlStore> = Arc::new(SqliteControl::open(&control)?);
        let tokens = Tokens::load(Arc::clone(&control), (&api_token, &worker_token))?;
        Ok((control, Arc::new(CallStates::open(&calls)?), tokens))
    });
    opened.await.map_err(RunError::Store)
}

/// Waits until what was begun is written down.
async fn finish(driving: impl Future<Output = ()>, serving: impl Future<Output = ()>) {
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
}

/// What only we and those we tell may know.
struct Secrets {
    api: String,
    worker: String,
    overrides: String,
    /// Hides the ids of calls in the journal.
    calls: String,
}

impl Secrets {
    fn read(state: &StateDir) -> Result<Self, RunError> {
        let read = |path: PathBuf| {
            let what = format!("cannot read {}", path.display());
            secret::token(&path).map_err(failed(what))
        };
        Ok(Self {
            api: read(state.api_token())?,
            worker: read(state.worker_token())?,
            overrides: read(state.override_token())?,
            calls: read(state.call_key())?,
        })
    }
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
