//! SIGTERM and SIGINT, done right: the first begins a drain, and no later one cuts anything short.
//! Whoever means to end calls has SIGKILL, or a policy.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::pool::AgentPool;
use crate::thread::spawn;

/// Has both signals begin a drain from now on. `main` waits with [`AgentPool::wait_drained`], then
/// ends.
///
/// # Errors
///
/// When the signals cannot be had, or no thread started.
pub fn on_signals(pool: &AgentPool) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let pool = pool.clone();
    spawn("segue-signals", move || {
        for signal in signals.forever() {
            let name = if signal == SIGTERM {
                "SIGTERM"
            } else {
                "SIGINT"
            };
            pool.begin_drain(name);
        }
    })
}
