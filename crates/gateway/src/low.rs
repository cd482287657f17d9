//! What is in no hurry steps aside for live calls.
//!
//! A handoff is prepared while every call flows, and a process that has given everything away still
//! closes thousands of descriptors and writes last lines. That is in nobody's way if there are
//! processors enough. If there are not, it would have every other moment of the one on which frames
//! are relayed.

use std::io;
use std::panic::resume_unwind;

use rustix::process::{Pid, nice, setpriority_process};

/// A tenth of the share of who is as it was: some hundred milliseconds for what takes ten, beside
/// a process that is never idle.
const NICENESS: i32 = 10;

/// A quarter of it: whoever waits for it to be prepared takes no new connections meanwhile.
const UNHURRIED: i32 = 5;

/// Does something while calls flow, and lets them go first. Blocks.
///
/// # Errors
///
/// Those of `work`, or that there is no thread for it.
pub(crate) fn unhurried<T: Send, E: Send + From<io::Error>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        // Niceness is a thread's, and cannot be taken back: this one ends with it.
        let thread = std::thread::Builder::new().name("unhurried".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            // Without it it is only done sooner.
            let _ = nice(UNHURRIED);
            work()
        })?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Lets everybody else go first, from here to the end of this process: there is no way back.
pub(crate) fn step_aside() {
    // Threads have niceness, and not processes.
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return;
    };
    let threads = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    for thread in threads.filter_map(Pid::from_raw) {
        // One that has just ended.
        let _ = setpriority_process(Some(thread), NICENESS);
    }
}
