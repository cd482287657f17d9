//! A worker of a release, and the calls it has.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use segue_core::names::CallId;
use segue_core::time::Millis;
use serde_json::{Map, Value};

use crate::audit::{AuditEvent, AuditLog, Said, Sink, SinkError};
use crate::call::Call;
use crate::drain::{Drain, OnStraggler, Policy, Refused};
use crate::event::Event;
use crate::inner::Inner;
use crate::outcome::Outcome;
use crate::segue::Segue;
use crate::snapshot::Snapshot;
use crate::thread::lock;

/// How long the last reports may take when nothing else is said. It is the end of a process whose
/// calls are over, so it may take a moment.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A worker of a release, and the calls it has. A handle: clones are the same worker.
#[derive(Debug, Clone)]
pub struct AgentPool {
    owner: Arc<Owner>,
}

/// The last handle that goes takes the threads with it.
#[derive(Debug)]
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(Duration::ZERO);
    }
}

/// An [`AgentPool`] to be.
pub struct Builder {
    version: Option<String>,
    policy: Policy,
    sink: Option<Sink>,
    segue: Option<Segue>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How long a drain may last before its calls are named as overdue. Without it, as long as the
    /// last call. It ends no call by itself: see [`Self::on_straggler`].
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.policy.drain_timeout = Some(Millis(timeout));
        self
    }

    /// What becomes of calls that are overdue.
    #[must_use]
    pub fn on_straggler(mut self, action: OnStraggler) -> Self {
        self.policy.on_straggler = action;
        self
    }

    /// Where audit events go. An event that the sink does not take is offered again.
    #[must_use]
    pub fn audit_sink(
        mut self,
        sink: impl Fn(&AuditEvent) -> Result<(), SinkError> + Send + Sync + 'static,
    ) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Whom heartbeats and outcomes are told.
    #[must_use]
    pub fn segue(mut self, segue: Segue) -> Self {
        self.segue = Some(segue);
        self
    }

    /// The pool. Nothing runs before [`AgentPool::start`], so it may be made before a fork.
    pub fn build(self) -> AgentPool {
        let drain = Drain::new(self.policy);
        let audit = AuditLog::new(self.sink);
        let inner = Inner::new(drain, self.version, self.segue, audit);
        let owner = Arc::new(Owner(Arc::new(inner)));
        AgentPool { owner }
    }
}

impl AgentPool {
    /// A pool of the release that people call `deployment_version`.
    pub fn builder(deployment_version: impl Into<String>) -> Builder {
        let version = deployment_version.into();
        Builder {
            version: Some(version).filter(|version| !version.is_empty()),
            policy: Policy::default(),
            sink: None,
            segue: None,
        }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.owner.0
    }

    /// Starts heartbeats, reports and the audit sink; a second time changes nothing. Calls and
    /// drains need it only for a `drain_timeout`.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        self.inner().start()
    }

    /// Lets a call in, or one more connection of one that is here.
    ///
    /// # Errors
    ///
    /// A [`Refused`]: another worker takes it.
    pub fn enter(&self, call: &str) -> Result<Call, Refused> {
        self.let_in(call, false)
    }

    /// Lets a call in that somebody accepted in this worker's name before, as in the entrypoint of a
    /// job: to refuse it now would lose it.
    ///
    /// # Errors
    ///
    /// A [`Refused`], but not for a drain.
    pub fn enter_assigned(&self, call: &str) -> Result<Call, Refused> {
        self.let_in(call, true)
    }

    fn let_in(&self, call: &str, assigned: bool) -> Result<Call, Refused> {
        let call: CallId = call.parse()?;
        self.inner().enter(&call, assigned)?;
        Ok(Call::new(Arc::clone(self.inner()), call))
    }

    /// Whether a call that is new here may come in: it does not drain, and its membership is not
    /// refused.
    pub fn takes_calls(&self) -> bool {
        lock(&self.inner().now).drain.takes_calls()
    }

    /// From here on new calls are refused; those that are here go on to their ends. Again, it changes
    /// nothing.
    pub fn begin_drain(&self, reason: &str) {
        self.inner().begin_drain(reason);
    }

    /// Waits for the last call's end after [`Self::begin_drain`]; `false`: it took longer.
    pub fn wait_drained(&self, within: Option<Duration>) -> bool {
        self.inner().wait_drained(within)
    }

    /// Calls `listener` with each event from now on.
    pub fn on_event(&self, listener: impl Fn(&Event) + Send + Sync + 'static) {
        self.inner().listen(Box::new(listener));
    }

    /// Takes in what Segue tells workers at their `notify` path: a `CloudEvent` as JSON. Answers
    /// whether it was one of ours.
    pub fn notified(&self, body: &[u8]) -> bool {
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let call = || event["data"]["call"].as_str()?.parse::<CallId>().ok();
        match event["type"].as_str() {
            Some("dev.segue.worker.retiring") => self.inner().set_retiring(true),
            Some("dev.segue.worker.resumed") => self.inner().set_retiring(false),
            Some("dev.segue.call.announce") => {
                let Some(call) = call() else { return false };
                self.inner().push(Event::Announce { call });
            }
            Some("dev.segue.call.hand-off") => {
                let Some(call) = call() else { return false };
                self.inner().push(Event::HandOff { call });
            }
            _ => return false,
        }
        true
    }

    /// Says how a call went, also after its end.
    ///
    /// # Errors
    ///
    /// When this is no call's id.
    pub fn report(&self, call: &str, outcome: Outcome) -> Result<(), Refused> {
        let call: CallId = call.parse()?;
        self.inner().report(&call, outcome);
        Ok(())
    }

    /// Writes an event of the agent's own into the audit log; without a `version`, of this one.
    pub fn audit(
        &self,
        event: &str,
        actor: &str,
        target: &str,
        result: &str,
        version: Option<&str>,
        fields: Map<String, Value>,
    ) -> AuditEvent {
        let inner = self.inner();
        let said = Said {
            event: event.to_owned(),
            actor: actor.to_owned(),
            target: target.to_owned(),
            result: result.to_owned(),
            version: version
                .map(ToOwned::to_owned)
                .or_else(|| inner.version.clone()),
            fields,
        };
        inner.audit.emit(said, inner.clock.now())
    }

    /// How it is.
    pub fn runtime_snapshot(&self) -> Snapshot {
        self.inner().snapshot()
    }

    /// Segue, if it is configured.
    pub fn segue(&self) -> Option<&Segue> {
        self.inner().segue.as_ref()
    }

    /// Waits until outcomes and audit events are through, 5 s if `within` is not said; `false`: it took
    /// longer.
    pub fn flush(&self, within: Option<Duration>) -> bool {
        self.inner().flush(within.unwrap_or(CLOSE_MAX))
    }

    /// Ends the threads, for good, once what they hold is through or `within` is over, 5 s if it is not said.
    /// Answers whether all of it is through. No call is touched.
    pub fn close(&self, within: Option<Duration>) -> bool {
        self.inner().close(within.unwrap_or(CLOSE_MAX))
    }
}

#[cfg(test)]
mod tests;
