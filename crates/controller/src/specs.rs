//! The agents of the configuration, and reading them again while everything runs.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use segue_core::names::AgentName;
use segue_core::spec::{AgentSpec, Spec, parse};

/// The agents, as they were read last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Specs(Arc<RwLock<Arc<BTreeMap<AgentName, AgentSpec>>>>);

impl Specs {
    pub(crate) fn new(agents: BTreeMap<AgentName, AgentSpec>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(agents))))
    }

    /// All of them, at this moment.
    pub(crate) fn now(&self) -> Arc<BTreeMap<AgentName, AgentSpec>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn get(&self, name: &AgentName) -> Option<AgentSpec> {
        self.now().get(name).cloned()
    }

    fn replace(&self, agents: BTreeMap<AgentName, AgentSpec>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(agents);
    }
}

/// The configuration file, and what was read from it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it is.
    pub file: PathBuf,
    /// What the controller was started with.
    pub spec: Spec,
}

/// Reads the configuration again.
#[derive(Debug)]
pub(crate) struct Reloader {
    source: Option<Mutex<Source>>,
    specs: Specs,
}

/// What reading it again changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reloaded {
    /// Agents that are new, or whose settings are.
    pub(crate) changed: Vec<AgentName>,
    /// Agents that are not in it any more. They are kept: they may have calls.
    pub(crate) removed: Vec<AgentName>,
    /// Tables that differ and are read at a start only.
    pub(crate) restart: Vec<&'static str>,
    /// Whether the file tells the dispatcher something else than when it was read before. It reads
    /// it at its own start.
    pub(crate) dispatcher: bool,
}

/// Why nothing was taken from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReload {
    /// The operator mends the file.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
    /// The operator starts Segue with a file.
    #[error("this controller was not started from a file")]
    NoFile,
}

impl Reloader {
    pub(crate) fn new(source: Option<Source>, specs: Specs) -> Self {
        let source = source.map(Mutex::new);
        Self { source, specs }
    }

    /// Reads it again: all of it, or nothing when it has a fault. Reads a file.
    pub(crate) fn reload(&self) -> Result<Reloaded, NoReload> {
        let source = self.source.as_ref().ok_or(NoReload::NoFile)?;
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        let name = source.file.display().to_string();
        let unreadable = |error| NoReload::Faults(vec![format!("{name} cannot be read: {error}")]);
        let text = fs::read_to_string(&source.file).map_err(unreadable)?;
        let new = parse(&name, &text).map_err(|faults| {
            let faults = faults.iter().map(ToString::to_string);
            NoReload::Faults(faults.collect())
        })?;
        let reloaded = compare(&source.spec, &new, &self.specs.now());
        self.specs.replace(new.agents.clone());
        // What is read at a start only stays what it was then, and goes on to differ.
        source.spec.agents = new.agents;
        if reloaded.dispatcher {
            // When the dispatcher is started nobody tells us, so it is said once.
            source.spec.livekit = new.livekit;
            tracing::warn!(
                "[livekit] has changed: the dispatcher reads it when it is started anew"
            );
        }
        tracing::info!(file = name, ?reloaded, "the configuration was read again");
        Ok(reloaded)
    }
}

fn compare(old: &Spec, new: &Spec, agents: &BTreeMap<AgentName, AgentSpec>) -> Reloaded {
    let changed = new
        .agents
        .iter()
        .filter(|(name, spec)| agents.get(*name) != Some(spec));
    let removed = agents.keys().filter(|name| !new.agents.contains_key(*name));
    let tables = [
        ("[gateway]", old.gateway != new.gateway),
        ("[api]", old.api != new.api),
        ("[membership]", old.membership != new.membership),
        ("[telemetry]", old.telemetry != new.telemetry),
        ("[[notify]]", old.notify != new.notify),
        // Whether there is a dispatcher, and at which socket, is decided by who starts it.
        ("[livekit]", address(old) != address(new)),
    ];
    Reloaded {
        changed: changed.map(|(name, _)| name.clone()).collect(),
        removed: removed.cloned().collect(),
        restart: tables
            .into_iter()
            .filter_map(|(table, differs)| differs.then_some(table))
            .collect(),
        dispatcher: address(old) == address(new) && old.livekit != new.livekit,
    }
}

/// Where LiveKit workers connect, if they do.
fn address(spec: &Spec) -> Option<SocketAddr> {
    spec.livekit.as_ref().map(|livekit| livekit.listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "[agents.desk]\ncommand = [\"bot\", \"{port}\"]\n";

    fn reloader(name: &str) -> (PathBuf, Reloader) {
        let file = std::env::temp_dir().join(format!("segue-specs-{name}-{}", std::process::id()));
        fs::write(&file, FIRST).unwrap();
        let spec = parse("segue.toml", FIRST).unwrap();
        let specs = Specs::new(spec.agents.clone());
        let source = Source {
            file: file.clone(),
            spec,
        };
        (file, Reloader::new(Some(source), specs))
    }

    #[test]
    fn what_changed_is_taken_over_and_told() {
        let (file, reloader) = reloader("changed");
        assert_eq!(reloader.reload().unwrap(), Reloaded::default());
        let more = "workers = 3\n[agents.new]\npath = \"/new\"\ncommand = [\"bot\", \"{port}\"]\n";
        let api = "[api]\nlisten = \"127.0.0.1:7171\"\n";
        fs::write(&file, format!("{FIRST}{more}{api}")).unwrap();
        let told = reloader.reload().unwrap();
        let names: Vec<&str> = told.changed.iter().map(AgentName::as_str).collect();
        assert_eq!((names, told.restart), (vec!["desk", "new"], vec!["[api]"]));
        let desk = reloader.specs.get(&"desk".parse().unwrap()).unwrap();
        assert_eq!(desk.worker.count, 3);
        let again = reloader.reload().unwrap();
        assert_eq!(again.restart, ["[api]"], "it still has to be restarted");
        assert!(again.changed.is_empty());
        fs::write(&file, FIRST).unwrap();
        let told = reloader.reload().unwrap();
        assert_eq!(told.removed, ["new".parse().unwrap()]);
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn what_the_dispatcher_reads_is_told_once_and_apart() {
        let (file, reloader) = reloader("livekit");
        let livekit = |more: &str| {
            let text = format!(
                "{FIRST}[agents.desk.livekit]\nname = \"desk\"\n[livekit]\nurl = \"wss://a\"\n\
                 api_key = \"k\"\nsecret_file = \"s\"\nunsigned = true\n{more}"
            );
            fs::write(&file, text).unwrap();
            let told = reloader.reload().unwrap();
            (told.restart, told.dispatcher)
        };
        // There was none.
        assert_eq!(livekit(""), (vec!["[livekit]"], false));
        let text = fs::read_to_string(&file).unwrap();
        let spec = parse("segue.toml", &text).unwrap();
        let source = reloader.source.as_ref().unwrap();
        source.lock().unwrap().spec = spec;
        assert_eq!(livekit(""), (vec![], false));
        assert_eq!(livekit("ca_file = \"ca\"\n"), (vec![], true));
        assert_eq!(livekit("ca_file = \"ca\"\n"), (vec![], false), "once");
        let elsewhere = "listen = \"127.0.0.1:7081\"\n";
        assert_eq!(livekit(elsewhere), (vec!["[livekit]"], false));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn nothing_is_taken_from_a_file_with_faults_and_all_are_told() {
        let (file, reloader) = reloader("faults");
        fs::write(&file, format!("{FIRST}workers = 0\ncapacity = \"x\"\n")).unwrap();
        let told = reloader.reload().unwrap_err().to_string();
        assert!(
            told.contains("workers") && told.contains("capacity"),
            "{told}"
        );
        let desk = reloader.specs.get(&"desk".parse().unwrap()).unwrap();
        assert_eq!(
            desk.worker.count,
            segue_core::spec::WorkerSpec::default().count
        );
        fs::remove_file(&file).unwrap();
        let told = reloader.reload().unwrap_err().to_string();
        assert!(told.contains("cannot be read"), "{told}");
        let none = Reloader::new(None, Specs::default());
        assert!(matches!(none.reload(), Err(NoReload::NoFile)));
    }
}
