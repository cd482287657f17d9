//! What happens in the demo, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use segue_controller::api::wire::{ActionView, AgentView, Ask, DeployBody, VerbBody};
use segue_voice::calllog::{CallLog, OperatorLog, Switch};
use segue_voice::random::Random;
use serde::Serialize;

use crate::args::DemoArgs;
use crate::demo::Sabotage;
use crate::demo::crowd::{Crowd, one_call};
use crate::demo::stage::{AGENT, Stage, kill};

/// How long a deploy may take to get to where it must stop.
const DEPLOY_MAX: Duration = Duration::from_mins(1);

/// How long the release before may take to drain: the longest call, the pins and the buffer.
const DRAIN_MAX: Duration = Duration::from_mins(1);

/// Rest after the rollback, so that new calls are seen to go back.
const AFTER_ROLLBACK: Duration = Duration::from_secs(3);

/// How many callers are led astray.
const MISLED: u64 = 3;

/// What the demo measured by its own clock.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) cutover_ack_ms: Option<u64>,
    pub(crate) rollback_ack_ms: Option<u64>,
    pub(crate) drain_s: Option<f64>,
    pub(crate) rollouts: Vec<Ended>,
    pub(crate) still_talking: usize,
}

/// How a rollout ended.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) release: String,
    #[serde(rename = "ended")]
    pub(crate) how: String,
    pub(crate) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

pub(crate) async fn play(stage: &mut Stage, args: &DemoArgs) -> anyhow::Result<Told> {
    let began = Instant::now();
    let mut told = Told::default();
    let operator = OperatorLog::open(&stage.logs().join("operator.jsonl"))?;
    stage.ready().await?;

    stage.say("deploy v1: its workers start, then it must pass a call by Segue itself");
    deploy(stage, &mut told, "v1", &[], "complete").await?;
    let (url, logs) = (stage.url()?, stage.logs());
    let crowd = Crowd::gather(&url, &logs, args.callers, args.seed)?;
    stage.say(&format!(
        "v1 takes calls; {} people begin to call",
        args.callers
    ));
    stage.linger(Duration::from_secs(3)).await?;

    second_release(stage, args, &mut told, &operator).await?;
    if args.sabotage == Some(Sabotage::Misroute) {
        mislead(stage, args.seed).await?;
    }
    third_release(stage, &mut told).await?;
    roll_back(stage, &mut told, &operator).await?;
    stage.linger(AFTER_ROLLBACK).await?;

    let left = Duration::from_secs(u64::from(args.seconds)).saturating_sub(began.elapsed());
    stage.linger(left).await?;
    stage.say("nobody calls any more; the last calls end by themselves");
    told.still_talking = crowd.disperse().await;
    Ok(told)
}

async fn second_release(
    stage: &mut Stage,
    args: &DemoArgs,
    told: &mut Told,
    operator: &OperatorLog,
) -> anyhow::Result<()> {
    if args.sabotage == Some(Sabotage::EarlyCutover) {
        stage.say("sabotage: v2 is cut over to before it has passed its gates");
        let begun = begin(stage, "v2", &[])?;
        stage
            .watch("workers of v2", DEPLOY_MAX, |view| {
                view.phase == "verifying"
            })
            .await?;
        cut_over(stage, told, operator, true).await?;
        told.rollouts.push(ended(stage, "v2", begun).await?);
        return drain(stage, told).await;
    }
    stage.say("deploy v2: beside v1, through smoke, then 10 % and 50 % of new calls");
    let begun = begin(stage, "v2", &[])?;
    stage
        .watch("the canary", DEPLOY_MAX, |view| view.phase == "canary")
        .await?;
    stage.say("v2 takes 10 % of new calls; the controller is killed (SIGKILL)");
    stage.kill_controller()?;
    if args.sabotage == Some(Sabotage::KillWorker) {
        stage.say("sabotage: a worker of v1 is killed under its calls");
        let view = stage.watch("a worker of v1", DEPLOY_MAX, |view| {
            worker(view, "v1").is_some()
        });
        let pid = worker(&view.await?, "v1");
        kill(pid.context("the worker has no process")?)?;
    }
    let paused = |view: &AgentView| view.rollout.as_ref().is_some_and(|rollout| rollout.paused);
    stage
        .watch("the end of the 50 % step", DEPLOY_MAX, paused)
        .await?;
    stage.say("v2 held 50 % of new calls well; the operator promotes it");
    cut_over(stage, told, operator, false).await?;
    told.rollouts.push(ended(stage, "v2", begun).await?);
    drain(stage, told).await
}

async fn cut_over(
    stage: &mut Stage,
    told: &mut Told,
    operator: &OperatorLog,
    skip_gates: bool,
) -> anyhow::Result<()> {
    let body = VerbBody {
        full: true,
        skip_gates,
        ..VerbBody::default()
    };
    let begun = Instant::now();
    let view = ask(stage, "promote", body)?;
    let ms = acknowledged(stage, &view, begun).await?;
    operator.acked(Switch::Cutover, AGENT, "v1", "v2");
    told.cutover_ack_ms = Some(ms);
    stage.say(&format!(
        "every new call goes to v2, acknowledged in {ms} ms; v1 drains"
    ));
    Ok(())
}

async fn drain(stage: &mut Stage, told: &mut Told) -> anyhow::Result<()> {
    let began = Instant::now();
    stage
        .watch("the drain of v1", DRAIN_MAX, |view| view.phase == "standby")
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    told.drain_s = Some((seconds * 10.0).round() / 10.0);
    stage.say(&format!(
        "v1 is empty after {seconds:.1} s: its calls ended by themselves"
    ));
    Ok(())
}

async fn third_release(stage: &mut Stage, told: &mut Told) -> anyhow::Result<()> {
    stage.say("deploy v3, which answers every question wrongly");
    let end = deploy(stage, told, "v3", &[("SAMPLE_FAULT", "wrong")], "failed").await?;
    let reason = end
        .rollout
        .and_then(|rollout| rollout.reason)
        .unwrap_or_default();
    let short: String = reason.chars().take(100).collect();
    stage.say(&format!(
        "v3 is stopped before a caller reached it: {short}"
    ));
    Ok(())
}

async fn roll_back(
    stage: &mut Stage,
    told: &mut Told,
    operator: &OperatorLog,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let view = ask(stage, "rollback", VerbBody::default())?;
    let ms = acknowledged(stage, &view, begun).await?;
    operator.acked(Switch::Rollback, AGENT, "v2", "v1");
    told.rollback_ack_ms = Some(ms);
    told.rollouts.push(Ended {
        release: "v1".to_owned(),
        how: "rolled back to".to_owned(),
        seconds: seconds(begun),
        reason: None,
    });
    stage.say(&format!(
        "rollback: every new call goes to v1 again, acknowledged in {ms} ms"
    ));
    Ok(())
}

/// Waits until the gateway acts by the table of a switch; answers the milliseconds since it was
/// asked for. A rollback returns after a second with the rest named: a slow disk is no refusal.
async fn acknowledged(stage: &mut Stage, view: &ActionView, begun: Instant) -> anyhow::Result<u64> {
    let ack = view.ack.as_ref().context("the switch took no effect")?;
    if !ack.unacked.is_empty() {
        stage.acted_by(ack.epoch).await?;
    }
    Ok(u64::try_from(begun.elapsed().as_millis())?)
}

/// Makes the gateway misroute callers: a version override sends them to v1 after the cutover, and
/// nothing in what callers and workers log marks their calls.
async fn mislead(stage: &mut Stage, seed: u64) -> anyhow::Result<()> {
    stage.say(&format!(
        "sabotage: the gateway is made to send {MISLED} new calls to v1"
    ));
    let log = Arc::new(CallLog::open(&stage.logs().join("callers-misled.jsonl"))?);
    let headers = stage.override_headers("v1")?;
    let mut misled = tokio::task::JoinSet::new();
    for caller in 0..MISLED {
        let (url, log, headers) = (stage.url()?, Arc::clone(&log), headers.clone());
        let mut random = Random::new(seed ^ 0x5EED ^ (caller << 32));
        misled.spawn(async move { one_call(&url, headers, &log, &mut random).await });
    }
    misled.join_all().await;
    Ok(())
}

/// The process of a running worker of a release.
fn worker(view: &AgentView, label: &str) -> Option<u32> {
    let release = view
        .releases
        .iter()
        .find(|release| release.label.as_str() == label)?;
    release.workers.iter().find_map(|worker| worker.pid)
}

async fn deploy(
    stage: &mut Stage,
    told: &mut Told,
    label: &str,
    env: &[(&str, &str)],
    until: &'static str,
) -> anyhow::Result<AgentView> {
    let begun = begin(stage, label, env)?;
    let end = stage
        .watch(until, DEPLOY_MAX, |view| view.phase == until)
        .await?;
    told.rollouts.push(summary(&end, label, begun));
    Ok(end)
}

fn begin(stage: &mut Stage, label: &str, env: &[(&str, &str)]) -> anyhow::Result<Instant> {
    let env: BTreeMap<String, String> = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let ask = Ask {
        actor: Some("demo".to_owned()),
        ..Ask::default()
    };
    let body = DeployBody {
        label: label.to_owned(),
        env,
        ask,
        ..DeployBody::default()
    };
    stage.client()?.deploy(AGENT, &body)?;
    Ok(Instant::now())
}

async fn ended(stage: &mut Stage, label: &str, begun: Instant) -> anyhow::Result<Ended> {
    let landed = ["draining", "settling", "standby"];
    let view = stage
        .watch("the landing", DEPLOY_MAX, |view| {
            landed.contains(&view.phase.as_str())
        })
        .await?;
    Ok(summary(&view, label, begun))
}

fn summary(view: &AgentView, label: &str, begun: Instant) -> Ended {
    let reason = view
        .rollout
        .as_ref()
        .and_then(|rollout| rollout.reason.clone());
    let how = if view.phase == "failed" {
        "stopped"
    } else {
        "landed"
    };
    let seconds = seconds(begun);
    Ended {
        release: label.to_owned(),
        how: how.to_owned(),
        seconds,
        reason,
    }
}

/// Seconds since then, to a tenth.
fn seconds(begun: Instant) -> f64 {
    (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

fn ask(stage: &Stage, verb: &str, body: VerbBody) -> anyhow::Result<ActionView> {
    let ask = Ask {
        actor: Some("demo".to_owned()),
        reason: Some("the demo shows it".to_owned()),
        revision: None,
    };
    Ok(stage
        .client()?
        .verb(AGENT, verb, &VerbBody { ask, ..body })?)
}
