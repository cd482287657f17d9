//! Forgetting by time what is kept for a time, also while nobody asks for anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{CallStates, ControlStore, Outcomes};
use crate::clock;
use crate::driver::{blocking, describe};

/// How much longer than it should anything is kept at most.
const EVERY: Duration = Duration::from_secs(30);

/// Forgets states of calls, how they went, and answers of keys, until it is dropped.
pub(crate) async fn sweep(
    control: Arc<dyn ControlStore>,
    states: Arc<CallStates>,
    outcomes: Arc<Outcomes>,
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (control, states) = (Arc::clone(&control), Arc::clone(&states));
        let outcomes = Arc::clone(&outcomes);
        let swept = blocking(move || {
            let now = clock::now();
            // Some at once: who writes in between does not wait for all of them.
            while states.sweep(now)? {}
            while outcomes.sweep(now)? {}
            control.sweep_keys(now)
        });
        if let Err(error) = swept.await {
            let why = describe(&error);
            tracing::warn!(why, "what is too old could not be removed");
        }
    }
}
