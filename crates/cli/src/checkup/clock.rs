//! Whether time can be relied on: deadlines, drains and the audit log all go by the wall clock.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use segue_core::time::Timestamp;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Findings, Patient, store};

/// How long the clocks are compared.
const COMPARED: Duration = Duration::from_millis(200);

/// How far they may be apart after that. A machine that is busy looks late on both.
const APART_MAX: Duration = Duration::from_millis(50);

/// How long `timedatectl` may take: it waits for a bus that may not be there.
const ASK_MAX: Duration = Duration::from_secs(2);

/// How far in the future an entry may lie: what a clock is slewed by.
const AHEAD_MAX_MS: u64 = 1_000;

pub(super) async fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("clock");
    match synchronised().await {
        Some(true) => found.ok("the clock is synchronised"),
        Some(false) => found.warn(
            "the clock is not synchronised",
            "`timedatectl set-ntp true`, or run chrony",
        ),
        None => found.ok("whether the clock is synchronised cannot be told here"),
    }
    let apart = apart().await;
    if apart > APART_MAX {
        found.fail(
            format!(
                "the clock was set while it was looked at: {} ms off",
                apart.as_millis()
            ),
            "let one service steer the clock, and let it slew instead of step",
        );
    }
    let last = store::last_entry(&patient.home);
    if let Some(last) = last {
        journal(last, now(), &mut found);
    }
    found
}

/// A journal from the future: the clock went back since.
fn journal(last: Timestamp, now: Timestamp, found: &mut Findings) {
    let ahead = last.since(now).0;
    if ahead > AHEAD_MAX_MS {
        found.fail(
            format!(
                "the last entry of the journal is {} in the future: the clock went back",
                crate::output::age(ahead)
            ),
            "set the clock right; until then drains and standbys end late by that much",
        );
    } else {
        found.ok("the journal's last entry is in the past");
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }))
}

/// How far the wall clock moved away from the steady one.
async fn apart() -> Duration {
    let (wall, steady) = (SystemTime::now(), Instant::now());
    tokio::time::sleep(COMPARED).await;
    let steady = steady.elapsed();
    match wall.elapsed() {
        Ok(wall) => wall.abs_diff(steady),
        Err(back) => back.duration() + steady,
    }
}

/// Whether something keeps the clock right. `None`: nobody here can say.
async fn synchronised() -> Option<bool> {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Some(true);
    }
    let mut command = Command::new("timedatectl");
    command
        .args(["show", "--property=NTPSynchronized", "--value"])
        .kill_on_drop(true);
    let output = timeout(ASK_MAX, command.output()).await.ok()?.ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn check(last: u64, now: u64, expected: Level) {
        let mut found = Findings::of("clock");
        journal(Timestamp(last), Timestamp(now), &mut found);
        assert_eq!(found.all[0].level, expected);
    }

    #[test]
    fn a_journal_from_the_future_is_noticed() {
        check(1_000, 5_000, Level::Ok);
        check(5_500, 5_000, Level::Ok);
        check(65_000, 5_000, Level::Fail);
    }
}
