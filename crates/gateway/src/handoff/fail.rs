//! Places where a test can have a handoff break.
//!
//! `SEGUE_FAIL_AT=handoff.ready=crash,handoff.took=stall` in the environment of a process; only in
//! builds with debug assertions or with the feature `failpoints`. Everywhere else these are no
//! code at all.

use super::HandoffError;

/// What may be asked for, by the name behind `handoff.`: steps of the taker, then of the giver.
pub const STEPS: [&str; 20] = [
    // The taker.
    "connected",
    "welcomed",
    "restored",
    "prepared",
    "calls",
    "adopted",
    "ready",
    "yours",
    "owned",
    "took",
    "late_came",
    // The giver.
    "greeted",
    "settled",
    "sealed",
    "stopped",
    "sent",
    "heard_ready",
    "said_yours",
    "heard_took",
    "late_sent",
];

/// Breaks here if that was asked for.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub(crate) fn at(step: &'static str) -> Result<(), HandoffError> {
    debug_assert!(STEPS.contains(&step), "{step} is not on the list");
    let Ok(asked) = std::env::var("SEGUE_FAIL_AT") else {
        return Ok(());
    };
    let action = asked.split(',').find_map(|one| {
        let (name, action) = one.strip_prefix("handoff.")?.split_once('=')?;
        (name == step).then_some(action)
    });
    match action {
        None => Ok(()),
        Some("error") => Err(HandoffError::Protocol("it was told to fail")),
        Some("stall") => loop {
            // Until somebody ends this process.
            std::thread::park();
        },
        // As a crash does it: nothing runs behind this, no destructor and no handler.
        Some(_) => {
            let this = rustix::process::getpid();
            let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

/// Nothing breaks here.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[expect(clippy::unnecessary_wraps, reason = "it is the other one's twin")]
#[inline]
pub(crate) fn at(_: &'static str) -> Result<(), HandoffError> {
    Ok(())
}
