//! The end of everything: calls by themselves, then the processes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use segue_controller::platform::process::stop_recorded;

use super::child::Child;
use super::dispatching::Dispatching;
use super::draining::Draining;
use super::wishes::Wishes;
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output::{self, Progress};

/// How long a worker without calls, or the controller, may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How often the live calls are counted while they end.
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// Who is to end.
pub(super) struct Ending {
    pub(super) controller: Option<Child>,
    pub(super) gateway: Option<Child>,
    pub(super) dispatching: Dispatching,
    pub(super) draining: Draining,
}

/// Ends everything, calls first by themselves.
pub(super) async fn wind_down(
    home: &Home,
    wishes: &mut Wishes,
    ending: Ending,
) -> anyhow::Result<Exit> {
    let Ending {
        controller,
        gateway,
        dispatching,
        mut draining,
    } = ending;
    if let Some(gateway) = &gateway {
        draining.take(home, gateway)?;
    }
    dispatching.end();
    if !calls_end(home, wishes, &draining, &dispatching).await {
        output::say(
            "left in the background: live calls go on and end by themselves; `segue serve` takes \
             new ones, `segue stop` waits and ends the rest",
        );
        return Ok(Exit::Interrupted);
    }
    draining.drop_last(home);
    if let Some(controller) = controller {
        let controller = controller.into_handle();
        controller.stop(GRACE).await;
        controller.forget()?;
    }
    // No gateway, no calls: nobody is cut off.
    stop_workers(&home.path().join("workers")).await?;
    output::say("everything has ended; `segue serve` goes on where it was");
    Ok(Exit::Ok)
}

/// Waits until the gateways, which take no new calls any more, have ended. Answers whether they
/// have; not if somebody does not want to wait.
async fn calls_end(
    home: &Home,
    wishes: &mut Wishes,
    draining: &Draining,
    dispatching: &Dispatching,
) -> bool {
    let mut progress = Progress::new();
    let show = async {
        loop {
            let home = home.clone();
            let count = move || count(&home);
            let live = tokio::task::spawn_blocking(count).await.ok().flatten();
            if let Some(live) = live.filter(|live| *live > 0) {
                let detail = "Ctrl-C again leaves it running in the background";
                progress.show(
                    &format!("no new calls; {live} live calls end by themselves"),
                    detail,
                );
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    };
    let all = async {
        let ((), jobs_ended) = tokio::join!(draining.ended(), dispatching.ended(home));
        jobs_ended
    };
    let ended = tokio::select! {
        ended = all => ended,
        () = wishes.leave() => false,
        () = show => false,
    };
    progress.clear();
    ended
}

fn count(home: &Home) -> Option<u64> {
    let status = Client::find(home).and_then(|client| client.status()).ok()?;
    Some(status.agents.iter().map(|agent| agent.live).sum())
}

/// Stops every worker that is on record: one folder for each agent.
async fn stop_workers(records: &Path) -> anyhow::Result<()> {
    let mut stopping = tokio::task::JoinSet::new();
    let agents = fs::read_dir(records).into_iter().flatten().flatten();
    for record in agents
        .filter_map(|agent| fs::read_dir(agent.path()).ok())
        .flatten()
    {
        let path = record?.path();
        let is_record = path
            .extension()
            .is_some_and(|extension| extension == "json");
        if is_record {
            stopping.spawn(async move { stop_recorded(&path, GRACE).await });
        }
    }
    while let Some(stopped) = stopping.join_next().await {
        stopped??;
    }
    Ok(())
}
