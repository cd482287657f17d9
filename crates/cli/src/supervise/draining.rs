//! Gateways that take no new calls and end with their last one, beside the one that takes them.
//!
//! Such a gateway has closed its listener, so another may have the port; it needs nobody to go on.
//! It keeps its id, under which the controller counts its calls, and so the one beside it has
//! another. Once it has ended, its silence would keep every release it might hold calls of: the
//! supervisor, who saw it end, vouches that it is gone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use segue_controller::api::wire::Ask;
use segue_controller::platform::process::{Exit, Handle, Record, Signal};
use segue_controller::secret::write_private;
use segue_core::names::GatewayId;
use segue_gateway::id_after_handoff;
use serde_json::json;

use super::child::{Child, id_of};
use crate::client::Client;
use crate::home::Home;
use crate::output;

/// How often one that has ended is looked at, and asked to be forgotten until its lease is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Start of the name of a record.
const PREFIX: &str = "gateway-draining-";

/// The gateway of a machine that never had two at once.
pub(super) fn first_id() -> GatewayId {
    gateway_id(1)
}

fn gateway_id(number: usize) -> GatewayId {
    format!("gw-{number}")
        .parse()
        .expect("letters, a dash and digits are a name")
}

/// Gateways that take no new calls.
pub(super) struct Draining(Vec<Leaving>);

struct Leaving {
    record: PathBuf,
    id: GatewayId,
    /// `None`: it had ended before this supervisor looked.
    handle: Option<Handle>,
}

impl Draining {
    /// Those on record: they still run, or are not forgotten yet.
    pub(super) fn find(home: &Home) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(home.run())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_record = name.starts_with(PREFIX)
                && entry.path().extension().is_some_and(|end| end == "json");
            if is_record {
                found.push(Leaving::adopt(entry.path())?);
            }
        }
        Ok(Self(found))
    }

    /// Moves a gateway in here. It is asked to take no new calls, unless it does so already.
    ///
    /// It is written down first: after a crash in between it is asked again.
    pub(super) fn take(&mut self, home: &Home, gateway: &Child) -> anyhow::Result<()> {
        let pid = gateway.pid();
        let record = home.run().join(format!("{PREFIX}{pid}.json"));
        fs::rename(home.run().join("gateway.json"), &record)?;
        // Nobody listens there any more.
        let _ = fs::remove_file(home.run().join("gateway.addr"));
        output::say(&format!(
            "the gateway (pid {pid}) takes no new calls and ends with its last one"
        ));
        self.0.push(Leaving::adopt(record)?);
        Ok(())
    }

    /// Moves a gateway in here that has given its calls to another process, and stays for those that
    /// cannot move. Its record is written anew, and the place of its old one is the other's.
    pub(super) fn stays_behind(&mut self, home: &Home, gateway: &Child) -> anyhow::Result<()> {
        let pid = gateway.pid();
        let mut record = gateway.record().clone();
        record.note["id"] = json!(id_after_handoff(&gateway.id(), pid));
        let path = home.run().join(format!("{PREFIX}{pid}.json"));
        write_private(&path, &serde_json::to_vec(&record)?)?;
        self.0.retain(|leaving| leaving.record != path);
        self.0.push(Leaving::adopt(path)?);
        Ok(())
    }

    /// Who a new gateway can be: whom the last one was, or the first that none in here is.
    pub(super) fn free_id(&self, home: &Home) -> anyhow::Result<GatewayId> {
        let last = fs::read_to_string(home.last_gateway()).ok();
        let last = last.and_then(|id| id.trim().parse().ok());
        let numbered = (1..).map(gateway_id);
        last.into_iter()
            .chain(numbered)
            .find(|id| self.0.iter().all(|leaving| leaving.id != *id))
            .context("there are more numbers than gateways")
    }

    /// Whether any still runs.
    pub(super) fn has_live(&self) -> bool {
        self.0.iter().any(Leaving::is_running)
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        for handle in self.0.iter().filter_map(|leaving| leaving.handle.as_ref()) {
            handle.exited().await;
        }
    }

    /// Waits until one has ended and the controller has forgotten it. May be dropped while it
    /// waits.
    pub(super) async fn keep(&mut self, home: &Home) {
        loop {
            for at in 0..self.0.len() {
                if !self.0[at].is_running() && self.0[at].is_forgotten(home).await {
                    self.0.remove(at).drop_record();
                    return;
                }
            }
            if self.0.is_empty() {
                return std::future::pending().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Drops the record of the gateway that will be itself again at the next start. The others
    /// are forgotten then.
    pub(super) fn drop_last(self, home: &Home) {
        let last = fs::read_to_string(home.last_gateway()).unwrap_or_default();
        for leaving in self.0 {
            if leaving.id.as_str() == last.trim() {
                leaving.drop_record();
            }
        }
    }
}

impl Leaving {
    fn adopt(record: PathBuf) -> anyhow::Result<Self> {
        let id = id_of(&Record::read(&record)?.note);
        let handle = Handle::adopt(&record)
            .with_context(|| format!("cannot tell whether the gateway {id} still runs"))?;
        if let Some(handle) = &handle {
            // One that has ended meanwhile needs no signal.
            handle.signal(Signal::TERM).ok();
        }
        Ok(Self { record, id, handle })
    }

    fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(Handle::is_running)
    }

    /// Asks the controller to forget it: its process has ended, and its calls with it.
    async fn is_forgotten(&self, home: &Home) -> bool {
        let exit = match &self.handle {
            Some(handle) => handle.exited().await,
            None => Exit::Unknown,
        };
        let reason = match exit {
            Exit::Code(0) => "it ended after its last call".to_owned(),
            exit => format!("it took no new calls any more, and {exit}"),
        };
        let (home, id) = (home.clone(), self.id.to_string());
        let ask = move || {
            let ask = Ask {
                actor: Some("serve".to_owned()),
                reason: Some(reason),
                revision: None,
            };
            let asked = Client::find(&home).and_then(|client| client.forget(&id, &ask));
            match asked {
                Ok(_) => true,
                // The controller never knew it, or has forgotten it already.
                Err(trouble) => trouble.exit == crate::exit::Exit::Usage,
            }
        };
        tokio::task::spawn_blocking(ask).await.unwrap_or(false)
    }

    fn drop_record(self) {
        if let Err(error) = fs::remove_file(&self.record) {
            tracing::warn!(%error, record = %self.record.display(), "a record stays");
        }
    }
}
