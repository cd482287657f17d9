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
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{self, Access, Api, ApiConfig, Heartbeats, Identity, Tokens, WorkerTokens};
use crate::copies::Copies;
use crate::driver::{self, Asks, Driver, HEARD_MAX, Parts};
use crate::follow::Follower;
use crate::hooks::Hooks;
use crate::link::{self, Link};
use crate::membership::{Membership, MembershipConfig, OpenError};
use crate::outside::Outside;
use crate::platform::Platform;
use crate::platform::process::{ProcessPlatform, Tell};
use crate::secret;
use crate::smoke::{Door, Smoker};
use crate::specs::{Reloader, Source, Specs};
use crate::state::StateDir;
use crate::store::{
    self, CallStates, ControlStore, Journal, Outcomes, SqliteControl, SqliteJournal, StoreError,
};

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
    /// Who may take calls, by signature; `None`: every worker of a release.
    pub membership: Option<MembershipConfig>,
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
    /// The operator mends the files of `[membership]`.
    #[error("who may take calls is not known")]
    Membership(#[source] OpenError),
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
            Self::Membership(_) => "check the files of [membership] with `segue membership verify`",
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
    let state = prepare(&config)?;
    let _lock = lock(&state)?;
    let Secrets {
        api,
        workers,
        overrides,
        calls: call_key,
    } = Secrets::read(&state)?;
    let journal = open_journal(&state).await?;
    let (keys, (states, outcomes), tokens) = open_small(&state, (api, workers.clone())).await?;

    let mut sweeping = sweep(&keys, &states, &outcomes);

    let (notify, telemetry) = (config.notify, config.telemetry);
    let outside = Outside::open(&state, &config.config_dir, notify, telemetry).await;
    let outside = outside.map_err(RunError::Store)?;

    let bell = Arc::new(Notify::new());
    let copies = Copies::new(&state);
    let platform = ProcessPlatform::new(state.clone(), copies.clone(), Arc::clone(&bell));
    let platform = Arc::new(platform);
    let membership = Membership::open(config.membership, &config.config_dir, &state, bell.clone());
    let membership = membership.map_err(RunError::Membership)?;
    sweeping.spawn(membership.clone().watch());
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
        membership: membership.clone(),
        bell,
        announce,
    };
    let driver = Driver::load(parts).await.map_err(RunError::Journal)?;
    adopt(&platform, &driver).map_err(failed("cannot find the running workers again"))?;

    let socket = state.control_socket();
    let control =
        link::bind(&socket).map_err(failed(format!("cannot make {}", socket.display())))?;
    let doors = listen(&state, &config.api).await?;
    platform.tell(Box::new(doors.contact(workers)?));

    let metrics = Arc::clone(&outside.metrics);
    let follower = || Follower::new(Arc::clone(&journal), head.clone());
    let _telling = outside.start(&link, follower);
    let ([rollbacks, asks], to_driver) = Asks::new();
    let identity = doors.identity();
    let again = (reloader.clone(), identity.clone());
    let mut reloading = Box::pin(reload_on_hangup(again, asks.clone()));
    let (heard, from_gateways) = mpsc::channel(HEARD_MAX);
    let router = api::router(Arc::new(Api {
        specs,
        reloader: Arc::clone(&reloader),
        config_dir: config.config_dir,
        copies,
        driver: asks,
        rollbacks,
        head: head.clone(),
        link: link.clone(),
        journal: Arc::clone(&journal),
        control: keys,
        states,
        outcomes,
        heartbeats: Heartbeats::default(),
        tokens,
        access: Access::new(&config.api),
        identity,
        metrics,
        membership,
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

/// Old things are removed, as long as this is kept.
fn sweep(
    keys: &Arc<dyn ControlStore>,
    states: &Arc<CallStates>,
    outcomes: &Arc<Outcomes>,
) -> JoinSet<()> {
    let mut sweeping = JoinSet::new();
    sweeping.spawn(store::sweep(
        Arc::clone(keys),
        Arc::clone(states),
        Arc::clone(outcomes),
    ));
    sweeping
}

/// The state directory, if the configuration is one to start with.
fn prepare(config: &ControllerConfig) -> Result<StateDir, RunError> {
    let addr = config.api.listen;
    if !addr.ip().is_loopback() && config.api.tls.is_none() {
        return Err(RunError::NotLoopback { addr });
    }
    let state = StateDir::new(&config.state_dir);
    let what = format!("cannot make {}", config.state_dir.display());
    state.create().map_err(failed(what))?;
    Ok(state)
}

/// Reads the configuration and the API's identity again on SIGHUP. Returns only when that cannot be
/// heard.
async fn reload_on_hangup(
    (reloader, identity): (Arc<Reloader>, Option<Arc<Identity>>),
    driver: mpsc::Sender<driver::Message>,
) -> RunError {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return failed("cannot listen for SIGHUP")(error),
    };
    while hangup.recv().await.is_some() {
        let (again, identity) = (Arc::clone(&reloader), identity.clone());
        let read = move || {
            if let Some(Err(error)) = identity.map(|identity| identity.reload()) {
                tracing::error!(%error, "the API keeps the identity it has");
            }
            again.reload()
        };
        match tokio::task::spawn_blocking(read).await {
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
    tls: Option<(TcpListener, Arc<Identity>)>,
}

impl Doors {
    fn identity(&self) -> Option<Arc<Identity>> {
        self.tls.as_ref().map(|(_, identity)| Arc::clone(identity))
    }

    /// For workers, who are on this machine.
    fn contact(&self, tokens: WorkerTokens) -> Result<Contact, RunError> {
        let addr = self.local.local_addr();
        let addr = addr.map_err(failed("the API has no address"))?;
        Ok(Contact { addr, tokens })
    }

    async fn serve(self, router: axum::Router) {
        let local = api::serve(self.local, None, router.clone());
        match self.tls {
            None => local.await,
            Some((listener, identity)) => {
                tokio::select! {
                    () = local => {}
                    () = api::serve(listener, Some(identity), router) => {}
                }
            }
        }
    }
}

/// How workers reach the API: they keep the state of their calls there. One that was started by an
/// earlier controller knows where that one listened.
#[derive(Debug)]
struct Contact {
    addr: SocketAddr,
    tokens: WorkerTokens,
}

impl Tell for Contact {
    fn variables(&self, agent: &AgentName) -> BTreeMap<String, String> {
        let url = format!("http://{}", self.addr);
        let mut variables = BTreeMap::from([("SEGUE_API_URL".to_owned(), url)]);
        match self.tokens.file(agent) {
            Ok(file) => {
                let file = file.to_string_lossy().into_owned();
                variables.insert("SEGUE_TOKEN_FILE".to_owned(), file);
            }
            // It takes calls without one, too; it only cannot keep their state.
            Err(error) => tracing::error!(%agent, %error, "workers start without their token"),
        }
        variables
    }
}

/// With TLS, there is a port of loopback without it beside: `segue` on this machine need not mind
/// names and certificates.
async fn listen(state: &StateDir, config: &ApiConfig) -> Result<Doors, RunError> {
    let Some(files) = &config.tls else {
        let local = bind(config.listen, &state.api_addr()).await?;
        return Ok(Doors { local, tls: None });
    };
    let identity = Identity::open(files).map_err(failed("cannot use the identity of the API"))?;
    let listener = bind(config.listen, &state.api_tls_addr()).await?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let local = bind(any, &state.api_addr()).await?;
    let tls = Some((listener, Arc::new(identity)));
    Ok(Doors { local, tls })
}

/// Listens, and writes down where. Where any port will do, it is the one of before: whoever was told
/// of that, workers above all, goes on to ask there.
async fn bind(at: SocketAddr, file: &Path) -> Result<TcpListener, RunError> {
    let mut listener = TcpListener::bind(former(at, file).unwrap_or(at)).await;
    if let (Err(error), Some(former)) = (&listener, former(at, file)) {
        tracing::warn!(
            %former, %error,
            "the admin API takes another port; workers that run cannot reach it until they are replaced"
        );
        listener = TcpListener::bind(at).await;
    }
    let listener = listener.map_err(failed(format!("cannot listen on {at}")))?;
    let addr = listener.local_addr();
    let addr = addr.map_err(failed("the API has no address"))?;
    let wrote = secret::write_private(file, format!("{addr}\n").as_bytes());
    wrote.map_err(failed(format!("cannot write {}", file.display())))?;
    tracing::info!(%addr, "the admin API listens");
    Ok(listener)
}

/// Where it listened before, if it may choose.
fn former(at: SocketAddr, file: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(file).ok()?;
    let former: SocketAddr = text.trim().parse().ok()?;
    (at.port() == 0 && former.ip() == at.ip() && former.port() != 0).then_some(former)
}

/// What is kept of calls, in one file.
type OfCalls = (Arc<CallStates>, Arc<Outcomes>);

/// The smaller stores, and the tokens in one of them.
async fn open_small(
    state: &StateDir,
    (api_token, workers): (String, WorkerTokens),
) -> Result<(Arc<dyn ControlStore>, OfCalls, Tokens), RunError> {
    let (control, calls) = (state.control(), state.call_states());
    let opened = driver::blocking(move || {
        let control: Arc<dyn ControlStore> = Arc::new(SqliteControl::open(&control)?);
        let tokens = Tokens::load(Arc::clone(&control), &api_token, workers)?;
        let states = Arc::new(CallStates::open(&calls)?);
        let outcomes = Arc::new(Outcomes::open(&calls)?);
        Ok((control, (states, outcomes), tokens))
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
    workers: WorkerTokens,
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
            workers: WorkerTokens::open(state).map_err(failed("cannot read the key of workers"))?,
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
