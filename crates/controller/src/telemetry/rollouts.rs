//! One trace per rollout: the rollout, its phases below it, and its gates below those. Made from
//! the journal, so it is whole although the controller was killed in the middle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use segue_core::audit::Entry;
use segue_core::names::{AgentName, ReleaseId};
use segue_core::rollout::{Fact, Gate};
use segue_core::time::Timestamp;
use serde_json::{Value, json};

use super::otlp::Exporter;
use super::span::{Kind, Span, SpanId, TraceId, span_id, trace_id};
use crate::driver::{blocking, describe};
use crate::follow::{Follower, Past};
use crate::store::Cursors;

/// The name of the cursor that says which entries have been traced.
pub(crate) const CURSOR: &str = "otlp";

/// What releases are called.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<ReleaseId, String>>>);

impl Names {
    /// The label of a release, or its short digest.
    pub(super) fn label(&self, release: ReleaseId) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(&release);
        known.cloned().unwrap_or_else(|| release.short())
    }

    fn learn(&self, release: ReleaseId, label: String) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(release, label);
    }
}

/// Sends the spans of rollouts as they end. Those of before this telemetry was switched on are
/// left alone.
pub(super) async fn export(
    exporter: Exporter,
    mut follower: Follower,
    cursors: Arc<Cursors>,
    names: Names,
) {
    let (of, head) = (Arc::clone(&cursors), follower.head());
    let begun = blocking(move || of.begin(CURSOR, head)).await;
    let mut traced = begun.unwrap_or_else(|error| {
        let why = describe(&error);
        tracing::warn!(why, "rollouts are traced from now on only");
        head
    });
    let mut open = Rollouts::new(names);
    while let Some(entries) = follower.next().await {
        let last = entries.last().map_or(0, |entry| entry.seq);
        let spans = entries.iter().flat_map(|entry| {
            let spans = open.take(entry);
            spans.into_iter().filter(move |_| entry.seq > traced)
        });
        let spans: Vec<Span> = spans.collect();
        if !spans.is_empty() {
            exporter.send(&spans).await;
        }
        if last > traced {
            traced = last;
            let of = Arc::clone(&cursors);
            if let Err(error) = blocking(move || of.advance(CURSOR, last)).await {
                let why = describe(&error);
                tracing::warn!(why, "some spans may be sent twice one day");
            }
        }
    }
}

/// Rollouts that are under way.
#[derive(Debug)]
pub(super) struct Rollouts {
    names: Names,
    past: Past,
    open: BTreeMap<AgentName, Open>,
}

#[derive(Debug)]
struct Open {
    trace: TraceId,
    root: SpanId,
    agent: AgentName,
    number: u64,
    label: String,
    started: Timestamp,
    phase: Option<Part>,
    paused: Option<Part>,
    attributes: Vec<(&'static str, Value)>,
}

/// A part of a rollout that has begun.
#[derive(Debug)]
struct Part {
    id: SpanId,
    name: String,
    since: Timestamp,
    attributes: Vec<(&'static str, Value)>,
}

impl Rollouts {
    pub(super) fn new(names: Names) -> Self {
        Self {
            names,
            past: Past::default(),
            open: BTreeMap::new(),
        }
    }

    /// Takes an entry in; answers the spans that ended with it.
    pub(super) fn take(&mut self, entry: &Entry) -> Vec<Span> {
        let Some((fact, _)) = self.past.take(entry) else {
            return Vec::new();
        };
        let bakes = self.past.is_baking(&entry.agent);
        let mut spans = Vec::new();
        match &fact {
            Fact::Deployed {
                rollout,
                release,
                plan,
                at,
                fast_track,
                ..
            } => {
                self.names.learn(release.id, release.label.to_string());
                spans.extend(self.close(entry, *at, None));
                let label = release.label.to_string();
                let mut open = Open::new(entry, *rollout, label, *at);
                open.attributes
                    .push(("segue.fast_track", json!(fast_track)));
                let first = match plan.hooks.before_deploy {
                    Some(_) => "hook before_deploy",
                    None => "provisioning",
                };
                open.begin(entry, *at, first, Vec::new());
                self.open.insert(entry.agent.clone(), open);
            }
            Fact::RollbackStarted {
                rollout,
                from,
                to,
                reason,
                at,
            } => {
                let (from, to) = (self.names.label(*from), self.names.label(*to));
                let same = |open: &Open| open.number == *rollout;
                if !self.open.get(&entry.agent).is_some_and(same) {
                    spans.extend(self.close(entry, *at, None));
                    let open = Open::new(entry, *rollout, from.clone(), *at);
                    self.open.insert(entry.agent.clone(), open);
                }
                if let Some(open) = self.open.get_mut(&entry.agent) {
                    spans.extend(open.end(*at, Some(reason)));
                    let about = vec![
                        ("segue.from", json!(from)),
                        ("segue.to", json!(to)),
                        ("segue.reason", json!(reason)),
                        ("segue.actor", json!(entry.actor)),
                    ];
                    open.begin(entry, *at, "rolling back", about);
                }
            }
            _ => {
                if let Some(open) = self.open.get_mut(&entry.agent) {
                    spans.extend(open.go_on(entry, &fact, bakes));
                }
            }
        }
        match fact {
            Fact::Landed { at, .. } if !bakes => {
                spans.extend(self.close(entry, at, None));
            }
            Fact::Baked { at } => spans.extend(self.close(entry, at, None)),
            Fact::RolledBack { at, .. } => {
                spans.extend(self.close(entry, at, Some("rolled back".to_owned())));
            }
            Fact::Failed { at, reason } => spans.extend(self.close(entry, at, Some(reason))),
            _ => {}
        }
        spans
    }

    fn close(&mut self, entry: &Entry, at: Timestamp, failed: Option<String>) -> Vec<Span> {
        let Some(mut open) = self.open.remove(&entry.agent) else {
            return Vec::new();
        };
        // How it failed is said by the phase in which it did; a rollback that ends is none.
        let of_phase = failed.clone().filter(|why| why != "rolled back");
        let mut spans = open.end(at, of_phase.as_deref());
        spans.push(Span {
            trace: open.trace,
            id: open.root,
            parent: None,
            name: "rollout".to_owned(),
            kind: Kind::Internal,
            start: open.started,
            end: at,
            attributes: open.attributes,
            failed,
        });
        spans
    }
}

impl Open {
    fn new(entry: &Entry, number: u64, label: String, at: Timestamp) -> Self {
        let agent = entry.agent.clone();
        let parts = ["rollout", agent.as_str(), &number.to_string(), &entry.hash];
        Self {
            trace: trace_id(&parts),
            root: span_id(&parts),
            number,
            started: at,
            phase: None,
            paused: None,
            attributes: vec![
                ("segue.agent", json!(agent)),
                ("segue.release", json!(label)),
                ("segue.rollout", json!(number)),
                ("segue.actor", json!(entry.actor)),
            ],
            agent,
            label,
        }
    }

    fn go_on(&mut self, entry: &Entry, fact: &Fact, bakes: bool) -> Vec<Span> {
        let mut spans = Vec::new();
        match fact {
            Fact::ProvisionStarted { at, .. } => {
                spans.extend(self.end(*at, None));
                self.begin(entry, *at, "provisioning", Vec::new());
            }
            Fact::VerifyStarted { attempt, at, .. } => {
                spans.extend(self.end(*at, None));
                let about = vec![("segue.attempt", json!(attempt))];
                self.begin(entry, *at, "verifying", about);
            }
            Fact::GatePassed { gate, .. } => spans.push(self.gate(entry, gate)),
            Fact::StepStarted {
                step, share, at, ..
            } => {
                spans.extend(self.end(*at, None));
                let about = vec![
                    ("segue.step", json!(step)),
                    ("segue.share_bp", json!(share)),
                ];
                self.begin(entry, *at, &format!("step {}", step + 1), about);
            }
            Fact::Paused { at, pause } => {
                let about = vec![("segue.pause", json!(pause))];
                self.paused = Some(part(entry, *at, "paused", about));
            }
            Fact::Resumed { at } => spans.extend(self.resume(*at)),
            Fact::CutOver { at, .. } => {
                spans.extend(self.end(*at, None));
                self.begin(entry, *at, "promoting", Vec::new());
            }
            Fact::Landed { at, unacked } => {
                if let Some(phase) = &mut self.phase {
                    phase
                        .attributes
                        .push(("segue.unacked", json!(unacked.len())));
                }
                spans.extend(self.end(*at, None));
                if bakes {
                    self.begin(entry, *at, "bake", Vec::new());
                }
            }
            _ => {}
        }
        spans
    }

    fn begin(
        &mut self,
        entry: &Entry,
        at: Timestamp,
        name: &str,
        attributes: Vec<(&'static str, Value)>,
    ) {
        self.phase = Some(part(entry, at, name, attributes));
    }

    /// Ends what is under way.
    fn end(&mut self, at: Timestamp, failed: Option<&str>) -> Vec<Span> {
        let mut spans: Vec<Span> = self.resume(at).into_iter().collect();
        if let Some(phase) = self.phase.take() {
            spans.push(self.child(phase, self.root, at, failed.map(str::to_owned)));
        }
        spans
    }

    fn resume(&mut self, at: Timestamp) -> Option<Span> {
        let paused = self.paused.take()?;
        let parent = self.phase.as_ref().map_or(self.root, |phase| phase.id);
        Some(self.child(paused, parent, at, None))
    }

    /// A gate is tried from the beginning of its phase on.
    fn gate(&self, entry: &Entry, gate: &Gate) -> Span {
        let name = match gate {
            Gate::Readiness => "readiness".to_owned(),
            Gate::Smoke => "smoke".to_owned(),
            Gate::BeforeDeploy => "before_deploy".to_owned(),
            Gate::Webhook(name) => format!("webhook {name}"),
            Gate::Approval => "approval".to_owned(),
        };
        let (parent, since) = match &self.phase {
            Some(phase) => (phase.id, phase.since),
            None => (self.root, self.started),
        };
        let about = vec![("segue.actor", json!(entry.actor))];
        let gate = part(entry, since, &format!("gate {name}"), about);
        self.child(gate, parent, entry.at, None)
    }

    fn child(&self, part: Part, parent: SpanId, at: Timestamp, failed: Option<String>) -> Span {
        let mut attributes = part.attributes;
        attributes.push(("segue.agent", json!(self.agent)));
        attributes.push(("segue.release", json!(self.label)));
        Span {
            trace: self.trace,
            id: part.id,
            parent: Some(parent),
            name: part.name,
            kind: Kind::Internal,
            start: part.since,
            end: at,
            attributes,
            failed,
        }
    }
}

/// The same entry always begins the same span.
fn part(
    entry: &Entry,
    since: Timestamp,
    name: &str,
    attributes: Vec<(&'static str, Value)>,
) -> Part {
    Part {
        id: span_id(&["part", &entry.hash, name]),
        name: name.to_owned(),
        since,
        attributes,
    }
}
