//! What a seed is about: the agent's settings, its releases and their hidden quality.

use std::collections::BTreeMap;

use segue_core::names::{AgentName, ReleaseId};
use segue_core::release::{Content, Release};
use segue_core::spec::{
    Approval, Before, Hook, Hooks, Ingress, Limits, OnRollback, Outbound, Plan, Policy, RuleWhen,
    Smoke, Step, StragglerPolicy, Stragglers, TargetRule, Webhook,
};
use segue_core::split::Share;
use segue_core::time::Millis;

use super::rng::Rng;

/// What a release is like. Segue does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    /// Drops some of its calls; its smoke calls may pass.
    Drops,
    /// The same, but only once it is current.
    TurnsBad,
    /// Its smoke calls fail.
    Mute,
    /// Some of its workers never get ready.
    NeverReady,
    /// Its workers die soon after they got ready.
    CrashLoop,
}

/// What a seed is about.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) gateways: usize,
    pub(crate) policy: Policy,
    pub(crate) releases: Vec<Release>,
    pub(crate) quality: BTreeMap<ReleaseId, Quality>,
    /// Mean time between calls.
    pub(crate) gap: Millis,
    /// Typical length of a call.
    pub(crate) length: Millis,
    /// Mean time between operators' acts.
    pub(crate) patience: Millis,
    /// How long faults and operators go on.
    pub(crate) chaos: Millis,
}

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng, name: &AgentName) -> Self {
        let mut quality = BTreeMap::new();
        let releases: Vec<Release> = (0..rng.between(3, 6))
            .map(|number| {
                let release = release(rng, name, number);
                let kind = match rng.below(20) {
                    0..=11 => Quality::Good,
                    12 => Quality::TurnsBad,
                    13..=14 => Quality::Drops,
                    15 => Quality::Mute,
                    16..=17 => Quality::NeverReady,
                    _ => Quality::CrashLoop,
                };
                // Something must serve before anything can be replaced.
                let kind = if number == 0 { Quality::Good } else { kind };
                quality.insert(release.id, kind);
                release
            })
            .collect();
        Self {
            gateways: if rng.chance(500) { 3 } else { 2 },
            policy: policy(rng),
            releases,
            quality,
            gap: Millis(rng.between(150, 2_500)),
            length: Millis(rng.between(300, 5_000)),
            patience: Millis(rng.between(600, 9_000)),
            chaos: Millis(rng.between(40_000, 160_000)),
        }
    }
}

fn release(rng: &mut Rng, name: &AgentName, number: u64) -> Release {
    let content = Content {
        command: vec!["bot".to_owned()],
        env: BTreeMap::from([("N".to_owned(), number.to_string())]),
        directory: "/srv".to_owned(),
        files: BTreeMap::new(),
        ..Content::default()
    };
    let workers = u32::try_from(rng.between(1, 3)).expect("small");
    let capacity = u32::try_from(rng.between(4, 40)).expect("small");
    let label = format!("v{number}").parse().expect("a good label");
    Release::new(name, label, content, workers, capacity)
}

/// Settings of an agent: short, because a run is.
pub(crate) fn policy(rng: &mut Rng) -> Policy {
    Policy {
        stickiness: Millis(rng.between(500, 8_000)),
        on_rollback: if rng.chance(300) {
            OnRollback::Move
        } else {
            OnRollback::Stay
        },
        straggler_buffer: Millis(rng.between(500, 8_000)),
        standby: Millis(rng.below(20_000)),
        max_tails: u32::try_from(rng.below(3)).expect("small"),
        stragglers: stragglers(rng),
        rescue: None,
    }
}

fn stragglers(rng: &mut Rng) -> Stragglers {
    let policy = *rng.pick(&StragglerPolicy::ALL);
    Stragglers {
        policy,
        ceiling: (policy != StragglerPolicy::Wait).then(|| Millis(rng.below(8_000))),
        jitter: Millis(rng.below(3_000)),
        per_second: u32::try_from(rng.between(1, 20)).expect("small"),
    }
}

/// Rules name releases that may or may not take calls.
pub(crate) fn ingress(rng: &mut Rng) -> Ingress {
    let mut ingress = Ingress::default();
    for name in ["v0", "v1", "v2", "v3"] {
        if rng.chance(400) {
            ingress.rules.push(TargetRule {
                when: RuleWhen::Header {
                    name: "x-vip".to_owned(),
                    equals: None,
                },
                release: name.to_owned(),
            });
        }
    }
    ingress
}

/// A way to bring a release in.
pub(crate) fn plan(rng: &mut Rng) -> Plan {
    let smoke = rng.chance(700).then(|| Smoke {
        scenario: "hello".to_owned(),
        path: "/ws/{call_id}".to_owned(),
        calls: 1,
        timeout: Millis(rng.between(2_000, 12_000)),
    });
    let mut share = 0;
    let steps = (0..rng.below(4))
        .map(|_| {
            share = (share + rng.between(1, 4_000)).min(10_000);
            Step {
                share: Share(u16::try_from(share).expect("small")),
                min_calls: rng.below(6),
                min_duration: Millis(rng.below(5_000)),
                pause: rng.chance(200),
            }
        })
        .collect();
    Plan {
        ready_timeout: Millis(rng.between(2_000, 15_000)),
        smoke,
        steps,
        limits: Limits {
            drops: Share(1_000),
            errors: Share(2_000),
            min_calls: rng.between(1, 10),
        },
        webhooks: ["board", "tests"]
            .into_iter()
            .filter(|_| rng.chance(150))
            .map(webhook)
            .collect(),
        approval: approval(rng),
        hooks: Hooks {
            before_deploy: rng.chance(200).then(hook),
            after_retire: rng.chance(300).then(hook),
        },
        bake: Millis(if rng.chance(400) {
            rng.between(500, 20_000)
        } else {
            0
        }),
        fast_track: rng.chance(700),
    }
}

fn webhook(name: &str) -> Webhook {
    let to = Outbound {
        url: format!("https://{name}.test"),
        secret_file: None,
        allow: Vec::new(),
    };
    Webhook {
        name: name.to_owned(),
        to,
        timeout: Millis(500),
        retries: 0,
    }
}

fn approval(rng: &mut Rng) -> Option<Approval> {
    let before = match rng.below(10) {
        0 => Before::Ramp,
        1..=2 => Before::Cutover,
        _ => return None,
    };
    Some(Approval { before })
}

fn hook() -> Hook {
    Hook {
        command: vec!["migrate".to_owned()],
        timeout: Millis::from_secs(30),
    }
}
