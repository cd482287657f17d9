//! Whether the machine lets this configuration hold the calls it promises.

use std::fs;

use rustix::process::{Resource, getrlimit};
use segue_controller::platform::process::Record;
use segue_core::spec::Spec;

use super::{Findings, Patient};

/// Descriptors of a call in a gateway: the caller's socket and the worker's.
const PER_CALL: u64 = 2;

/// Descriptors of a gateway beside its calls: listeners, links, logs, health checks.
const BESIDE: u64 = 256;

/// While one release drains and the next fills up, both may be full.
const RELEASES_AT_ONCE: u64 = 2;

/// Ports from which one address can connect to one worker, unless the system says otherwise.
const PORTS: u64 = 28_000;

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("limits");
    let Some(spec) = &patient.spec else {
        return found;
    };
    let running = gateway_limit(patient);
    let whose = if running.is_some() {
        "the running gateway"
    } else {
        "this shell"
    };
    // `segue serve` raises its soft limit to the hard one.
    let limit = running.or(getrlimit(Resource::Nofile).maximum);
    descriptors(calls(spec), limit, whose, &mut found);
    for (name, agent) in &spec.agents {
        let (have, need) = (ports(), u64::from(agent.worker.capacity));
        if need > have {
            found.warn(
                format!(
                    "{name}: a worker may hold {need} calls, but this machine has {have} ports to \
                     reach it from"
                ),
                "more workers with a smaller `capacity`, or a wider net.ipv4.ip_local_port_range",
            );
        }
    }
    found
}

/// Calls that all agents may hold in one release.
fn calls(spec: &Spec) -> u64 {
    spec.agents
        .values()
        .map(|agent| u64::from(agent.worker.count) * u64::from(agent.worker.capacity))
        .sum()
}

fn descriptors(calls: u64, limit: Option<u64>, whose: &str, found: &mut Findings) {
    let Some(limit) = limit else {
        found.ok(format!("{whose} may open any number of files"));
        return;
    };
    let one = calls * PER_CALL + BESIDE;
    let both = calls * PER_CALL * RELEASES_AT_ONCE + BESIDE;
    let fix = format!(
        "raise it to {both}: LimitNOFILE={both} in the systemd unit, or `ulimit -Hn {both}` before \
         `segue serve`"
    );
    if limit < one {
        let what = format!(
            "{whose} may open {limit} files; {calls} calls (workers × capacity) need {one}: the \
             last ones would be refused"
        );
        found.fail(what, fix);
    } else if limit < both {
        let what = format!(
            "{whose} may open {limit} files; {both} are needed while one release drains and the \
             next is full"
        );
        found.warn(what, fix);
    } else {
        found.ok(format!(
            "{whose} may open {limit} files; {both} are needed at most"
        ));
    }
}

/// What the running gateway may open. `None`: none runs, or it cannot be told.
fn gateway_limit(patient: &Patient) -> Option<u64> {
    patient.status.as_ref()?;
    let record = Record::read(&patient.home.run().join("gateway.json")).ok()?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", record.pid?)).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    // `unlimited` is more than anybody needs.
    Some(soft.parse().unwrap_or(u64::MAX))
}

fn ports() -> u64 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    match (ends.next(), ends.next()) {
        (Some(Ok(from)), Some(Ok(to))) => to.saturating_sub(from) + 1,
        _ => PORTS,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn check(calls: u64, limit: Option<u64>, expected: Level) {
        let mut found = Findings::of("limits");
        descriptors(calls, limit, "this shell", &mut found);
        assert_eq!(found.all[0].level, expected, "{:?}", found.all);
    }

    #[test]
    fn descriptors_must_do_for_two_releases() {
        check(100, None, Level::Ok);
        check(100, Some(1_024), Level::Ok);
        check(300, Some(1_024), Level::Warn);
        check(500, Some(1_024), Level::Fail);
    }
}
