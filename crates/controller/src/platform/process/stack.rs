//! What the processes of one release share: the ports of its components, which of them are ready,
//! and who still runs.
//!
//! A component's port belongs to its release for as long as that has any process, also while the
//! component is down and across restarts of the controller: so that what one release's workers
//! call is never another release's engine. It is written down before the first process is started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use segue_core::names::{AgentName, ComponentName, ReleaseId};
use segue_core::release::Release;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::port::{Port, Ports};
use crate::platform::words::Words;
use crate::secret::write_private;
use crate::state::StateDir;

/// A process of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A worker, by number.
    Worker(u32),
    /// A component.
    Component(ComponentName),
}

/// What is written down about the ports of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortNote {
    pub(super) agent: AgentName,
    pub(super) release: ReleaseId,
    pub(super) ports: BTreeMap<ComponentName, u16>,
}

/// What the processes of one release share.
#[derive(Debug)]
pub(super) struct Stack {
    /// Held until the last process of the release is gone.
    ports: BTreeMap<ComponentName, Port>,
    /// What each component depends on.
    needs: BTreeMap<ComponentName, BTreeSet<ComponentName>>,
    /// Its components, those that others depend on first.
    pub(super) order: Vec<ComponentName>,
    ready: watch::Sender<BTreeSet<ComponentName>>,
    running: watch::Sender<BTreeSet<Role>>,
    file: PathBuf,
}

impl Stack {
    /// Opens that of a release: with the ports that were written down, or with new ones.
    pub(super) fn open(
        state: &StateDir,
        agent: &AgentName,
        release: &Release,
        all: &Ports,
    ) -> io::Result<Arc<Self>> {
        let components = &release.content.components;
        let file = state.release_ports(agent, release.id);
        let known = PortNote::read(&file)?.map(|note| note.ports);
        let mut ports = BTreeMap::new();
        for name in components.keys() {
            let known = known.as_ref().and_then(|known| known.get(name));
            let port = match known {
                Some(number) => all.adopt(*number, release.id),
                None => all.pick_fixed(release.id)?.told(),
            };
            ports.insert(name.clone(), port);
        }
        let note = PortNote {
            agent: agent.clone(),
            release: release.id,
            ports: ports
                .iter()
                .map(|(name, port)| (name.clone(), port.number))
                .collect(),
        };
        if !components.is_empty() && known.as_ref() != Some(&note.ports) {
            if let Some(directory) = file.parent() {
                fs::create_dir_all(directory)?;
            }
            let bytes = serde_json::to_vec(&note).expect("a note is plain data");
            write_private(&file, &bytes)?;
        }
        let needs = components
            .iter()
            .map(|(name, is)| (name.clone(), is.depends_on.iter().cloned().collect()));
        Ok(Arc::new(Self {
            ports,
            needs: needs.collect(),
            order: release.content.start_order(),
            ready: watch::Sender::default(),
            running: watch::Sender::default(),
            file,
        }))
    }

    /// What must be ready before a process is started. Workers come last.
    pub(super) fn needs(&self, role: &Role) -> BTreeSet<ComponentName> {
        match role {
            Role::Worker(_) => self.needs.keys().cloned().collect(),
            Role::Component(name) => self.needs.get(name).cloned().unwrap_or_default(),
        }
    }

    /// The port of a component.
    pub(super) fn port(&self, component: &ComponentName) -> Option<u16> {
        self.ports.get(component).map(|port| port.number)
    }

    /// The addresses of components, for those who depend on them.
    pub(super) fn addresses<'a>(
        &'a self,
        of: impl IntoIterator<Item = &'a ComponentName>,
    ) -> impl Iterator<Item = (&'a ComponentName, SocketAddr)> {
        of.into_iter().filter_map(|name| {
            let port = self.port(name)?;
            Some((name, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        })
    }

    pub(super) fn set_ready(&self, component: &ComponentName, is: bool) {
        self.ready.send_if_modified(|ready| {
            if is {
                ready.insert(component.clone())
            } else {
                ready.remove(component)
            }
        });
    }

    /// Which of these are not ready.
    pub(super) fn missing(&self, of: &BTreeSet<ComponentName>) -> Vec<ComponentName> {
        of.difference(&self.ready.borrow()).cloned().collect()
    }

    /// Waits until all of these are ready.
    pub(super) async fn until_ready(&self, of: &BTreeSet<ComponentName>) {
        let mut ready = self.ready.subscribe();
        // The sender is ours, so it does not end.
        let _ = ready.wait_for(|ready| of.is_subset(ready)).await;
    }

    pub(super) fn set_running(&self, role: &Role, is: bool) {
        self.running.send_if_modified(|running| {
            if is {
                running.insert(role.clone())
            } else {
                running.remove(role)
            }
        });
    }

    /// Waits until nobody runs who needs it.
    pub(super) async fn until_unused(&self, role: &Role) {
        let Role::Component(name) = role else {
            return;
        };
        let needs = |by: &Role| match by {
            Role::Worker(_) => true,
            Role::Component(by) => self.needs.get(by).is_some_and(|needs| needs.contains(name)),
        };
        let mut running = self.running.subscribe();
        let _ = running.wait_for(|by| !by.iter().any(needs)).await;
    }

    /// Gives the ports back: the release has no process any more.
    pub(super) fn forget(&self) {
        remove(&self.file);
    }
}

impl PortNote {
    pub(super) fn read(path: &std::path::Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let note = serde_json::from_slice(&bytes);
        note.map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Removes the note about the ports of a release.
pub(super) fn remove(path: &std::path::Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the ports of a release could not be given back");
        }
        _ => {}
    }
}

/// Says where components are.
pub(super) fn tell<'a>(
    words: &mut Words,
    env: &mut BTreeMap<String, String>,
    addresses: impl Iterator<Item = (&'a ComponentName, SocketAddr)>,
) {
    for (name, addr) in addresses {
        words.set_component(name, addr);
        let variable = crate::platform::words::url_variable(name);
        env.insert(variable, format!("http://{addr}"));
    }
}

#[cfg(test)]
mod tests {
    use segue_core::release::{Component, Content};

    use super::*;

    fn release() -> Release {
        let component = |needs: &[&str]| Component {
            command: vec!["x".to_owned()],
            env: BTreeMap::new(),
            directory: "/".to_owned(),
            files: BTreeMap::new(),
            health_path: None,
            depends_on: needs.iter().map(|name| name.parse().unwrap()).collect(),
            version: None,
            requires: Vec::new(),
        };
        let content = Content {
            components: BTreeMap::from([
                ("a-api".parse().unwrap(), component(&["engine"])),
                ("engine".parse().unwrap(), component(&["proxy"])),
                ("proxy".parse().unwrap(), component(&[])),
            ]),
            ..Content::default()
        };
        Release::new(
            &"desk".parse().unwrap(),
            "v1".parse().unwrap(),
            content,
            1,
            1,
        )
    }

    fn state(name: &str) -> StateDir {
        let path = std::env::temp_dir().join(format!("segue-stack-{name}-{}", std::process::id()));
        let state = StateDir::new(path);
        state.create().unwrap();
        state
    }

    #[tokio::test]
    async fn ports_are_written_down_and_found_again() {
        let (state, agent, release) = (state("ports"), "desk".parse().unwrap(), release());
        let (ports, engine) = (Ports::default(), "engine".parse().unwrap());
        let first = Stack::open(&state, &agent, &release, &ports).unwrap();
        let port = first.port(&engine).unwrap();
        // Another controller, with no memory of its own.
        let others = Ports::default();
        let again = Stack::open(&state, &agent, &release, &others).unwrap();
        assert_eq!(again.port(&engine), Some(port));
        let stranger = others.pick(ReleaseId::of(b"other"), Some(port)).unwrap();
        assert_ne!(stranger.number, port, "it belongs to its release");
        again.forget();
        assert!(!state.release_ports(&agent, release.id).exists());
        fs::remove_dir_all(state.path()).unwrap();
    }

    #[tokio::test]
    async fn one_starts_after_what_it_needs_and_ends_before_it() {
        let (state, agent, release) = (state("order"), "desk".parse().unwrap(), release());
        let stack = Stack::open(&state, &agent, &release, &Ports::default()).unwrap();
        let name = |name: &str| -> ComponentName { name.parse().unwrap() };
        assert_eq!(stack.order, [name("proxy"), name("engine"), name("a-api")]);
        let needs = stack.needs(&Role::Worker(1));
        stack.set_ready(&name("proxy"), true);
        stack.set_ready(&name("engine"), true);
        assert_eq!(stack.missing(&needs), [name("a-api")]);
        stack.set_ready(&name("a-api"), true);
        stack.until_ready(&needs).await;
        stack.set_running(&Role::Component(name("engine")), true);
        let proxy = Role::Component(name("proxy"));
        let soon = std::time::Duration::from_millis(20);
        let waits = async || tokio::time::timeout(soon, stack.until_unused(&proxy)).await;
        assert!(waits().await.is_err());
        stack.set_running(&Role::Component(name("engine")), false);
        stack.until_unused(&proxy).await;
        stack.set_running(&Role::Worker(1), true);
        assert!(waits().await.is_err());
        stack.forget();
        fs::remove_dir_all(state.path()).unwrap();
    }
}
