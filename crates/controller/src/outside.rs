//! Everybody the controller talks to who is neither a gateway, nor one of its processes, nor a
//! client of its API: webhooks, receivers of notifications, a collector of traces; and what is
//! counted of it all.

use std::path::Path;
use std::sync::Arc;

use segue_core::spec::{NotifySpec, TelemetrySpec};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clock;
use crate::driver::{Outreach, blocking};
use crate::follow::Follower;
use crate::link::Link;
use crate::notify::{self, Tallies};
use crate::outbound::Client;
use crate::permits::Permits;
use crate::state::StateDir;
use crate::store::{Cursors, SqlitePermits, StoreError};
use crate::stragglers::{Heralds, Ushers};
use crate::telemetry::{self, Metrics};
use crate::webhooks::Asker;

/// The outside.
pub(crate) struct Outside {
    client: Client,
    cursors: Arc<Cursors>,
    notify: Vec<NotifySpec>,
    tallies: Tallies,
    telemetry: TelemetrySpec,
    /// What `/metrics` shows.
    pub(crate) metrics: Arc<Metrics>,
}

impl Outside {
    /// Opens what is kept of it.
    pub(crate) async fn open(
        state: &StateDir,
        config_dir: &Path,
        notify: Vec<NotifySpec>,
        telemetry: TelemetrySpec,
    ) -> Result<Self, StoreError> {
        let path = state.control();
        let mut names = notify::cursors(&notify);
        names.extend(telemetry.otlp.iter().map(|_| telemetry::CURSOR.to_owned()));
        let cursors = blocking(move || {
            let cursors = Cursors::open(&path)?;
            cursors.keep(&names)?;
            Ok(Arc::new(cursors))
        });
        let tallies = notify::tallies(&notify);
        Ok(Self {
            client: Client::new(config_dir),
            cursors: cursors.await?,
            metrics: Arc::new(Metrics::new(Arc::clone(&tallies))),
            notify,
            tallies,
            telemetry,
        })
    }

    /// What the driver uses of it. `key` names calls in the log without naming them.
    pub(crate) async fn outreach(
        &self,
        state: &StateDir,
        link: &Link,
        bell: &Arc<Notify>,
        key: &str,
    ) -> Result<Outreach, StoreError> {
        let path = state.control();
        let store = blocking(move || SqlitePermits::open(&path)).await?;
        let client = || self.client.clone();
        Ok(Outreach {
            asker: Asker::new(client(), Arc::clone(bell)),
            ushers: Ushers::new(client(), link.clone(), Arc::clone(bell), key),
            heralds: Heralds::new(client()),
            permits: Permits::load(Arc::new(store), clock::now()).await?,
        })
    }

    /// Tells, counts and traces until the tasks are dropped.
    pub(crate) fn start(self, link: &Link, follower: impl Fn() -> Follower) -> [JoinSet<()>; 2] {
        let Self {
            client,
            cursors,
            notify,
            tallies,
            telemetry,
            metrics,
        } = self;
        [
            notify::start(notify, &client, &cursors, &tallies, &follower),
            telemetry::start(&telemetry, &metrics, &client, &cursors, link, &follower),
        ]
    }
}
