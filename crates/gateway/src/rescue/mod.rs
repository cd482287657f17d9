//! Rescue: a call whose worker died goes on at another worker of its release.
//!
//! Only for agents that ask for it, because a worker must know how to go on: it is told so
//! (`X-Segue-Resume: true`), and hears the caller's first messages again; the rest it reads from
//! wherever it keeps the state of its calls.
//!
//! The relay finds out that a worker is dead and gives the call here by value; nothing is read from
//! the caller and nothing said to it until another worker has it, or none was found in time. What
//! the dead worker had been sent whole is gone with it; what it had been sent by half is not told
//! to the next one, and what it had said by half the caller never sees.
//!
//! A call that is being rescued while another gateway takes over goes there behind the others, once
//! it is saved. One that is being rescued while this process is killed is lost.

mod dial;
mod lifeline;
mod opening;

use std::sync::{Arc, Weak};
use std::time::Duration;

use segue_core::names::WorkerId;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::front::Front;
use crate::relay::LiveCall;

use self::dial::{Failed, Found};
pub(crate) use self::lifeline::{Lifeline, Recorded, Way};

/// How long a caller hears nothing at most. Who talks to a machine waits this long, and a worker
/// that was started again is ready by then.
const RESCUE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Wait before workers are tried again that all failed.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// It doubles up to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);

const NOT_IN_TIME: &str = "no worker could be had in time";

/// Workers asked at once: when one with a thousand calls dies, the others are not to be flooded.
const AT_ONCE: usize = 256;

/// Rescues whatever the relay gives here, for as long as there is a front and its relay.
pub(crate) async fn rescue_all(front: Weak<Front>, mut lost: UnboundedReceiver<Box<LiveCall>>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(call) = lost.recv().await {
        let Some(front) = front.upgrade() else {
            return;
        };
        // A handoff and a drain wait for it as for a call that is being set up.
        let (busy, turns) = (front.occupy(), Arc::clone(&turns));
        tokio::spawn(async move {
            rescue(&front, *call, &turns).await;
            drop(busy);
        });
    }
}

async fn rescue(front: &Front, mut call: LiveCall, turns: &Semaphore) {
    call.ticket.rescuing();
    let dead = call.ticket.worker().clone();
    let saved = match find(front, &mut call, turns).await {
        Ok((worker, early)) => {
            let worker = worker.into_std();
            let gone = |_| "its next worker is gone already";
            worker
                .and_then(|worker| call.go_on(worker, early))
                .map_err(gone)
        }
        Err(why) => Err(why),
    };
    call.ticket.rescue_ended(saved.is_ok(), clock::now());
    if let Err(why) = saved {
        let id = call.ticket.identity().call.clone();
        tracing::warn!(call = %id, worker = %dead, why, "a call could not be rescued");
        call = call.give_up();
    }
    front.relay.adopt(call);
}

/// Tries the other workers of the release, then all of them, until one has the call.
async fn find(
    front: &Front,
    call: &mut LiveCall,
    turns: &Semaphore,
) -> Result<Found, &'static str> {
    let line = call.lifeline.as_ref().ok_or("it has no lifeline")?;
    if let Some(why) = line.lost_because(clock::now()) {
        return Err(why);
    }
    let deadline = Instant::now() + RESCUE_WAIT_MAX;
    let mut tried = vec![call.ticket.worker().clone()];
    let mut pause = PAUSE_MIN;
    loop {
        if call.caller_ends().is_some() {
            return Err("its caller left");
        }
        let up = |worker: &WorkerId, addr| front.health.up(worker, addr);
        if call.ticket.retry(&tried, &up, clock::now()).is_err() {
            if Instant::now() + pause >= deadline {
                return Err(NOT_IN_TIME);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            tried.clear();
            continue;
        }
        let (worker, addr) = (call.ticket.worker().clone(), call.ticket.addr());
        let retiring = call.ticket.identity().retiring;
        let line = call.lifeline.as_mut().ok_or("it has no lifeline")?;
        let about = (line.next_number(), retiring);
        let limits = (turns, deadline);
        let asked = line.request.ask(addr, about, line.opening(), limits);
        let failed = match asked.await {
            Ok(found) => {
                front.health.answered(&worker, addr, true);
                line.begin(clock::now());
                return Ok(found);
            }
            Err(failed) => failed,
        };
        tracing::warn!(%worker, why = failed.why(), "a worker does not go on with a call");
        match failed {
            Failed::Unreached => front.health.answered(&worker, addr, false),
            Failed::Died => line.begin(clock::now()),
            Failed::OutOfTime => return Err(NOT_IN_TIME),
            Failed::Refused(_) => {}
        }
        if failed == Failed::Died && !line.may_begin() {
            return Err("workers went away as soon as they had it");
        }
        tried.push(worker);
    }
}
