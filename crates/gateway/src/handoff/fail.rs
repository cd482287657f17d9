//! Places where a test can have a handoff break.
//!
//! `SEGUE_FAIL_AT=handoff.ready=crash,handoff.took=stall` in the environment of a process; only in
//! builds with debug assertions or with the feature `failpoints`. Everywhere else these are no
//! code at all. The name is that of a step, behind where it is: `handoff.`, or `keeper.`.

use super::HandoffError;

/// Steps of the taker up to the one at which everything becomes its own.
pub const TAKER: [&str; 10] = [
    "connected",
    "welcomed",
    "ahead_came",
    "restored",
    "prepared",
    "calls",
    "adopted",
    "ready",
    "yours",
    "owned",
];

/// Steps of the giver that it may break at and serve on.
pub const GIVER: [&str; 8] = [
    "greeted",
    "settled",
    "sealed",
    "ahead_sent",
    "stopped",
    "sent",
    "heard_ready",
    "said_yours",
];

/// Steps of the giver behind which the calls may be the taker's.
pub const GIVEN: [&str; 3] = ["heard_ready", "said_yours", "heard_took"];

/// Steps behind the one at which everything became the taker's, of either side.
pub const BEHIND: [&str; 3] = ["took", "late_came", "late_sent"];

/// Breaks here if that was asked for.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub(crate) fn at(step: &'static str) -> Result<(), HandoffError> {
    let mut steps = TAKER.iter().chain(&GIVER).chain(&GIVEN).chain(&BEHIND);
    debug_assert!(steps.any(|known| *known == step), "{step} is not on a list");
    match asked("handoff", step).as_deref() {
        None => Ok(()),
        Some("error") => Err(HandoffError::Protocol("it was told to fail")),
        Some("stall") => loop {
            // Until somebody ends this process.
            std::thread::park();
        },
        Some(_) => crash(),
    }
}

/// What a test wants to happen at this step.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub(crate) fn asked(area: &str, step: &str) -> Option<String> {
    let asked = std::env::var("SEGUE_FAIL_AT").ok()?;
    asked.split(',').find_map(|one| {
        let (name, action) = one.strip_prefix(area)?.strip_prefix('.')?.split_once('=')?;
        (name == step).then(|| action.to_owned())
    })
}

/// As a crash does it: nothing runs behind this, no destructor and no handler.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub(crate) fn crash() -> ! {
    let this = rustix::process::getpid();
    let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// Nothing breaks here.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[expect(clippy::unnecessary_wraps, reason = "it is the other one's twin")]
#[inline]
pub(crate) fn at(_: &'static str) -> Result<(), HandoffError> {
    Ok(())
}
