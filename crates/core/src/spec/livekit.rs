//! Reads how jobs of LiveKit workers are given out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::bounds;
use super::keys::{AGENT_LIVEKIT, LIVEKIT};
use super::membership::{MembershipSpec, environment};
use super::reader::{Item, Section, quoted};
use super::values::{duration, listen};
use crate::dispatch::HOLD;
use crate::names::{AgentName, Environment};
use crate::time::Millis;

/// Where workers connect to, if the file does not say.
pub const LIVEKIT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7080);

/// How an agent's workers are named, for hints.
const AGENT_HINT: &str = "write [agents.NAME.livekit], with the `name` its workers register under";

/// Settings of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivekitSpec {
    /// The server.
    pub url: String,
    /// The file of certificates that its own must be signed by; `None`: the usual ones.
    pub ca_file: Option<String>,
    /// The name of its API key.
    pub api_key: String,
    /// The file with the key's secret.
    pub secret_file: String,
    /// Where workers connect to.
    pub listen: SocketAddr,
    /// How workers say which release they are of.
    pub admission: LivekitAdmission,
    /// The agents that take jobs.
    pub agents: BTreeMap<AgentName, LivekitAgent>,
}

impl LivekitSpec {
    /// Whether somebody from elsewhere can register as a worker without a token, and is given calls.
    pub fn believes_strangers(&self) -> bool {
        self.admission == LivekitAdmission::Unsigned && !self.listen.ip().is_loopback()
    }
}

/// How workers say which release they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LivekitAdmission {
    /// By their own word.
    Unsigned,
    /// By a signed token.
    Signed {
        /// Where they run, as it is signed.
        environment: Environment,
        /// The file of key sets.
        keys: String,
        /// The file of the manifest.
        manifest: String,
    },
}

/// How one agent takes jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivekitAgent {
    /// The name its workers register under; empty: they take jobs of every room.
    pub name: String,
    /// The namespace that they register in; usually empty.
    pub namespace: String,
    /// How long a job is held when every worker is busy.
    pub hold: Millis,
    /// Whether a room whose agent died is dispatched again.
    pub redispatch: bool,
    /// Whether `agent_version` is put into the metadata of rooms.
    pub room_metadata: bool,
}

/// What an agent says, and where.
pub(super) struct AgentSays<'a> {
    pub(super) place: Item<'a>,
    pub(super) agent: AgentName,
    pub(super) takes: LivekitAgent,
}

/// How an agent takes jobs, if it does.
pub(super) fn read_agent_livekit(item: Item<'_>) -> Option<LivekitAgent> {
    let section = item.section(&AGENT_LIVEKIT)?;
    let text = |key| section.read_option(key, |item| Some(item.text()?.to_owned()));
    let namespace = text("namespace").unwrap_or_default();
    let again = section.item("redispatch");
    if let Some(again) = again.filter(|_| !namespace.is_empty())
        && again.flag() == Some(true)
    {
        again.fault::<()>(
            "`redispatch` is not for an agent with a `namespace`",
            "leave one of them out: the server's API dispatches by name alone",
        );
    }
    Some(LivekitAgent {
        name: text("name").unwrap_or_default(),
        namespace,
        hold: section.read("hold", HOLD, |item| duration(item, &bounds::HOLD)),
        redispatch: section.read("redispatch", false, |item| item.flag()),
        room_metadata: section.read("room_metadata", false, |item| item.flag()),
    })
}

/// The dispatcher's settings, with what the agents say.
pub(super) fn read_livekit(
    top: &Section<'_>,
    membership: Option<&MembershipSpec>,
    says: Vec<AgentSays<'_>>,
) -> Option<LivekitSpec> {
    let Some(item) = top.item("livekit") else {
        for said in says {
            said.place.fault::<()>(
                "the agent takes jobs of LiveKit, but there is no [livekit]",
                "write [livekit] with the server's `url`, `api_key` and `secret_file`",
            );
        }
        return None;
    };
    let section = item.section(&LIVEKIT)?;
    let url = section
        .need("url", "write url = \"wss://HOST\"")
        .and_then(server);
    let text = |key: &str, hint: &str| {
        let item = section.need(key, hint)?;
        Some(item.filled()?.to_owned())
    };
    let ca_file = section.item("ca_file").map(|item| {
        if url.as_ref().is_some_and(|url| url.starts_with("ws://")) {
            item.fault::<()>(
                "`ca_file` is for a server with TLS",
                "leave it out, or write `url` with wss://",
            );
        }
        Some(item.filled()?.to_owned())
    });
    let api_key = text("api_key", "write the name of the server's API key");
    let secret_file = text("secret_file", "name a file that holds the key's secret");
    let admission = read_admission(&section, membership);
    if says.is_empty() {
        item.fault::<()>("no agent takes jobs of LiveKit", AGENT_HINT);
    }
    Some(LivekitSpec {
        url: url?,
        ca_file: match ca_file {
            Some(read) => Some(read?),
            None => None,
        },
        api_key: api_key?,
        secret_file: secret_file?,
        listen: section.read("listen", LIVEKIT_LISTEN, |item| {
            listen(item, LIVEKIT_LISTEN)
        }),
        admission: admission?,
        agents: by_name(says),
    })
}

/// The server tells agents apart by name and namespace, and so do we.
fn by_name(says: Vec<AgentSays<'_>>) -> BTreeMap<AgentName, LivekitAgent> {
    let mut agents: BTreeMap<AgentName, LivekitAgent> = BTreeMap::new();
    for said in says {
        let same = |other: &LivekitAgent| {
            (&other.name, &other.namespace) == (&said.takes.name, &said.takes.namespace)
        };
        if let Some((other, _)) = agents.iter().find(|(_, other)| same(other)) {
            let name = quoted(&said.takes.name);
            let place = match &*said.takes.namespace {
                "" => String::new(),
                namespace => format!(" in namespace {}", quoted(namespace)),
            };
            said.place.fault::<()>(
                format!("{other} takes jobs as {name}{place} already"),
                "give each agent another `name`, as its workers register",
            );
        }
        agents.insert(said.agent, said.takes);
    }
    agents
}

fn read_admission(
    section: &Section<'_>,
    membership: Option<&MembershipSpec>,
) -> Option<LivekitAdmission> {
    const HINT: &str = "see `segue membership --help`; or write unsigned = true where nobody else can \
                        connect";
    const SIGNED: [&str; 3] = ["environment", "keys", "manifest"];
    if section.read("unsigned", false, |item| item.flag()) {
        let given = SIGNED.iter().find_map(|key| section.item(key));
        if let Some(item) = given {
            item.fault::<()>(
                format!("`{}` is not used with unsigned = true", item.name),
                "leave one of them out",
            );
        }
        return Some(LivekitAdmission::Unsigned);
    }
    // What it does not say is said by [membership].
    let other = |key| section.item(key).or_else(|| section.need(key, HINT));
    let file = |key, of: Option<&String>| match (section.item(key), of) {
        (None, Some(of)) => Some(of.clone()),
        _ => Some(other(key)?.filled()?.to_owned()),
    };
    let environment = match (section.item("environment"), membership) {
        (None, Some(is)) => Some(is.environment.clone()),
        _ => other("environment").and_then(environment),
    };
    let keys = file("keys", membership.map(|is| &is.keys));
    let manifest = file("manifest", membership.map(|is| &is.manifest));
    Some(LivekitAdmission::Signed {
        environment: environment?,
        keys: keys?,
        manifest: manifest?,
    })
}

fn server(item: Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let rest = text
        .strip_prefix("wss://")
        .or_else(|| text.strip_prefix("ws://"));
    let is_good = |rest: &str| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"@?#".contains(&b))
    };
    if !rest.is_some_and(is_good) {
        let message = format!("`url`: {} is no address of a server", quoted(text));
        return item.fault(
            message,
            "write it like \"wss://HOST\" or \"ws://HOST:PORT\"",
        );
    }
    Some(text.to_owned())
}
