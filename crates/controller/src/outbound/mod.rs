//! Calls to addresses that somebody wrote into a file: webhooks, notifications, traces.
//!
//! Such an address may point anywhere, also at what only this machine can reach: its own admin
//! API, a cloud's metadata, a database without a password. So only public addresses are called,
//! and others only when the operator names them; the name is resolved once and the address it gave
//! is the one that is called, so that a second answer of the DNS changes nothing; a redirect is an
//! answer like any other; and no proxy is taken from the environment.
//!
//! Workers are another matter: where they listen is ours to say, so [`Client::tell`] calls a
//! worker on the address that the platform gave it, and nowhere else.

mod address;
mod places;
mod secret;
mod signature;
mod target;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use segue_core::spec::Outbound;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use self::address::Allow;
use self::places::{Place, Places};
use self::secret::Secret;
pub(crate) use self::signature::{delivery_id, keyed_hash};
use self::target::Target;
pub(crate) use self::target::shown;
use crate::clock;

/// How long a call may take, with the look-up of the name, unless its caller says otherwise: what
/// waits for it is told again or goes on without.
pub(crate) const TOTAL_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes: a verdict and a reason are far shorter.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Webhook gates asked at once. Together with the others this stays far below the 512 threads that
/// the journal's writes share with them.
const GATES_AT_ONCE_MAX: usize = 128;
/// Notifications at once: as many as there can be receivers, so that each has a place.
const NOTIFICATIONS_AT_ONCE_MAX: usize = 16;
/// Batches of spans sent at once: of rollouts and of calls.
const EXPORTS_AT_ONCE_MAX: usize = 2;
/// Calls to workers at once. They are on this machine and answer at once, or not at all.
const WORKERS_AT_ONCE_MAX: usize = 128;
/// Calls to the same webhook or worker at once: one, and one that was given up and hangs.
const OF_ONE_AT_ONCE_MAX: usize = 2;
/// How much later than its own limit a call is given up, should the look-up of a name be stuck in
/// the operating system.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// Addresses of one name that are tried: as many as the client has room for.
const ADDRS_MAX: usize = 16;

/// Header with the signature of the body.
const SIGNATURE: &str = "X-Segue-Signature";
/// Header with the id of a delivery: the same in every try of it.
const DELIVERY: &str = "X-Segue-Delivery";

/// Something to be said.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) content_type: &'static str,
    /// The same in every try, so that a receiver can tell a repetition.
    pub(crate) delivery: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn json(delivery: String, body: &serde_json::Value) -> Self {
        Self {
            content_type: "application/json",
            delivery,
            body: body.to_string().into_bytes(),
        }
    }

    /// A `CloudEvent` in structured mode.
    pub(crate) fn cloud_event(delivery: String, body: &serde_json::Value) -> Self {
        Self {
            content_type: "application/cloudevents+json",
            ..Self::json(delivery, body)
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Why no answer came. The words name no path, query or user of the address: all three may hold
/// secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The operator mends the address or allows it.
    #[error("{0}")]
    Refused(String),
    /// The operator mends the file of the secret.
    #[error("the secret that signs it cannot be used: {0}")]
    Secret(String),
    /// It may do better next time.
    #[error("{0}")]
    Unreachable(String),
    /// It may be faster next time.
    #[error("it did not answer within {}", segue_core::time::Millis(u64::try_from(.0.as_millis()).unwrap_or(u64::MAX)))]
    Late(Duration),
    /// Others hang in front of it; it may have its turn next time.
    #[error("too many calls wait for an answer")]
    Busy,
    /// It says more than we read.
    #[error("its answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

impl Failure {
    /// Whether the same might work a little later without anybody mending anything.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Late(_) | Self::Busy => true,
            Self::Refused(_) | Self::Secret(_) | Self::TooLong => false,
        }
    }
}

/// Which addresses a name may lead to.
#[derive(Debug)]
enum Rule {
    /// Public ones, and these.
    Public(Allow),
    /// Any: the operator's own collector of traces, which is usually on this machine.
    Any,
    /// Exactly this one.
    Worker(SocketAddr),
}

/// Whose call it is. A receiver of one kind that hangs never delays another kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line<'a> {
    /// A webhook gate of an agent.
    Gate { agent: &'a str, webhook: &'a str },
    /// A notification of the receiver of this name.
    Notification(&'a str),
}

type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Makes the calls.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    config_dir: PathBuf,
    gates: Places,
    notifications: Places,
    exports: Places,
    workers: Places,
    resolve: Box<Resolve>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

struct Call {
    url: String,
    rule: Rule,
    secret_file: Option<PathBuf>,
    message: Message,
    total: Duration,
}

impl Client {
    /// Files of secrets are relative to `config_dir`.
    pub(crate) fn new(config_dir: &Path) -> Self {
        let system = |host: &str, port: u16| Ok((host, port).to_socket_addrs()?.collect());
        Self::with_resolver(config_dir, system)
    }

    fn with_resolver(
        config_dir: &Path,
        resolve: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            config_dir: config_dir.to_owned(),
            gates: Places::new(GATES_AT_ONCE_MAX, OF_ONE_AT_ONCE_MAX),
            notifications: Places::new(NOTIFICATIONS_AT_ONCE_MAX, 1),
            exports: Places::new(EXPORTS_AT_ONCE_MAX, EXPORTS_AT_ONCE_MAX),
            workers: Places::new(WORKERS_AT_ONCE_MAX, OF_ONE_AT_ONCE_MAX),
            resolve: Box::new(resolve),
        }))
    }

    /// Calls an address that an operator wrote down, signed if it has a secret.
    pub(crate) async fn post(
        &self,
        line: Line<'_>,
        to: &Outbound,
        message: Message,
        total: Duration,
    ) -> Result<Answer, Failure> {
        let allow = Allow::parse(&to.allow).map_err(Failure::Refused)?;
        let secret_file = to.secret_file.as_ref();
        let call = Call {
            url: to.url.clone(),
            rule: Rule::Public(allow),
            secret_file: secret_file.map(|file| self.0.config_dir.join(file)),
            message,
            total,
        };
        let (places, name) = match line {
            Line::Gate { agent, webhook } => (&self.0.gates, format!("{agent}/{webhook}")),
            Line::Notification(name) => (&self.0.notifications, name.to_owned()),
        };
        self.run(places, &name, call).await
    }

    /// Calls the collector of traces that the operator named.
    pub(crate) async fn export(&self, url: &str, message: Message) -> Result<Answer, Failure> {
        let call = Call {
            url: url.to_owned(),
            rule: Rule::Any,
            secret_file: None,
            message,
            total: TOTAL_MAX,
        };
        self.run(&self.0.exports, "traces", call).await
    }

    /// Tells a worker something, on the address where the platform knows it.
    pub(crate) async fn tell(
        &self,
        worker: SocketAddr,
        path: &str,
        message: Message,
    ) -> Result<Answer, Failure> {
        let call = Call {
            url: format!("http://{worker}{path}"),
            rule: Rule::Worker(worker),
            secret_file: None,
            message,
            total: TOTAL_MAX,
        };
        self.run(&self.0.workers, &worker.to_string(), call).await
    }

    async fn run(&self, places: &Places, name: &str, call: Call) -> Result<Answer, Failure> {
        let (client, total) = (self.clone(), call.total);
        let place = places.take(name, total).await.ok_or(Failure::Busy)?;
        let made = spawn_blocking(move || client.0.call(&call, place));
        match timeout(total + STUCK_AFTER, made).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(Failure::Unreachable(format!("the call broke off: {error}"))),
            Err(_) => Err(Failure::Late(total)),
        }
    }
}

impl Inner {
    /// Blocks. The place is kept until this ends, also when nobody waits any more.
    fn call(&self, call: &Call, _place: Place) -> Result<Answer, Failure> {
        let began = Instant::now();
        let target = Target::parse(&call.url).map_err(Failure::Refused)?;
        let addresses = self.addresses(&target, &call.rule)?;
        let secret = call.secret_file.as_deref().map(Secret::read).transpose();
        let secret = secret.map_err(Failure::Secret)?;
        let left = call.total.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(Failure::Late(call.total));
        }
        let config = Config::builder()
            .timeout_global(Some(left))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("segue/", env!("CARGO_PKG_VERSION")))
            .build();
        let pinned = Pinned(addresses);
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), pinned);
        let message = &call.message;
        let mut request = agent
            .post(&call.url)
            .header("Content-Type", message.content_type)
            .header(DELIVERY, &message.delivery);
        if let Some(secret) = secret {
            let seconds = clock::now().0 / 1_000;
            let signature = signature::header(secret.bytes(), seconds, &message.body);
            request = request.header(SIGNATURE, signature);
        }
        let answer = request.send(message.body.as_slice());
        let mut answer = answer.map_err(|error| failure(error, call.total))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let body = body.read_to_vec();
        let body = body.map_err(|error| failure(error, call.total))?;
        Ok(Answer { status, body })
    }

    fn addresses(&self, target: &Target, rule: &Rule) -> Result<Vec<SocketAddr>, Failure> {
        if let Rule::Worker(worker) = rule {
            return Ok(vec![*worker]);
        }
        let found = match target.literal() {
            Some(ip) => vec![SocketAddr::new(ip, target.port())],
            None => (self.resolve)(target.host(), target.port()).map_err(|error| {
                Failure::Unreachable(format!("{} cannot be resolved: {error}", target.host()))
            })?,
        };
        let permitted = |addr: &&SocketAddr| match rule {
            Rule::Public(allow) => address::is_public(addr.ip()) || allow.has(addr.ip()),
            Rule::Any | Rule::Worker(_) => true,
        };
        let good: Vec<SocketAddr> = found.iter().filter(permitted).copied().collect();
        match (good.is_empty(), found.first()) {
            (false, _) => Ok(good),
            (true, None) => Err(Failure::Unreachable(format!(
                "{} has no address",
                target.host()
            ))),
            (true, Some(addr)) => {
                let what = match target.literal() {
                    Some(ip) => format!("{ip} is not a public address"),
                    None => format!(
                        "{} leads to {}, which is not a public address",
                        target.host(),
                        addr.ip()
                    ),
                };
                Err(Failure::Refused(format!(
                    "{what}; if it is meant, name it below `allow`"
                )))
            }
        }
    }
}

/// Always answers the addresses that were looked at.
#[derive(Debug)]
struct Pinned(Vec<SocketAddr>);

impl Resolver for Pinned {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut answer = self.empty();
        for addr in self.0.iter().take(ADDRS_MAX) {
            answer.push(*addr);
        }
        Ok(answer)
    }
}

/// What went wrong, in words that do not repeat the address.
fn failure(error: ureq::Error, total: Duration) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Late(total),
        ureq::Error::BodyExceedsLimit(_) => Failure::TooLong,
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Failure::Late(total),
        ureq::Error::Io(error) => Failure::Unreachable(format!("it cannot be reached: {error}")),
        ureq::Error::Rustls(error) => Failure::Unreachable(format!("TLS failed: {error}")),
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => {
            Failure::Unreachable("it cannot be reached".to_owned())
        }
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
            Failure::Refused("the address is not usable".to_owned())
        }
        ureq::Error::Protocol(error) => {
            Failure::Unreachable(format!("it does not speak HTTP as it should: {error}"))
        }
        _ => Failure::Unreachable("the call failed".to_owned()),
    }
}

#[cfg(test)]
mod tests;
