//! What befell a worker, as one plain sentence.

use segue_core::names::ReleaseId;
use segue_core::plane::{DrainedBy, Steer};
use segue_core::rollout::Notice;

/// `label` names a release.
pub(super) fn of(notice: &Notice, label: impl Fn(&ReleaseId) -> String) -> String {
    match notice {
        Notice::WorkerRejected {
            message,
            worker,
            label,
            from,
            times,
            ..
        } => {
            let who = match worker {
                Some(worker) => format!("worker {worker}"),
                None => "a worker".to_owned(),
            };
            let says = label.as_ref();
            let says = says.map(|label| format!(" that says it is of {label}"));
            let from = from.map(|from| format!(", from {from},"));
            let who = [Some(who), says, from].into_iter().flatten();
            let who: String = who.collect();
            format!("{who} was not let in{}: {message}", often(*times))
        }
        Notice::WorkerDraining {
            worker,
            release,
            jobs,
            by,
            ..
        } => format!(
            "worker {worker} of {} takes no more jobs, on the word of {}; it has {jobs}",
            label(release),
            match by {
                DrainedBy::Worker => "its own process",
                DrainedBy::Operator => "an operator",
                DrainedBy::Membership => "its membership",
            }
        ),
        Notice::WorkerSteered {
            worker,
            release,
            what,
            reason,
            ..
        } => {
            let what = match what {
                Steer::Drain => "drain: it takes no more jobs",
                Steer::Undrain => "take jobs again",
                Steer::Kick => "drain, and its connection is closed; its jobs go on",
            };
            let reason = reason.as_ref();
            let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            format!("worker {worker} of {} is to {what}{reason}", label(release))
        }
        Notice::MembershipRefused {
            document,
            message,
            times,
            ..
        } => format!(
            "the membership's {document} is refused{}, and the one before stays in force: {message}",
            often(*times)
        ),
        Notice::JobRedispatched { release, .. } => format!(
            "a job of {} whose worker died was dispatched again: its caller was still there",
            label(release)
        ),
        Notice::EventsLeftOut { count, .. } => {
            format!("{count} more events of workers are not written down: there were too many")
        }
    }
}

fn often(times: u32) -> String {
    match times {
        0 | 1 => String::new(),
        _ => format!(" ({times} times)"),
    }
}

#[cfg(test)]
mod tests {
    use segue_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_notice_is_a_sentence() {
        let release = ReleaseId::of(b"v1");
        let at = Timestamp(1);
        let say = |notice| of(&notice, |_| "v1".to_owned());
        let rejected = Notice::WorkerRejected {
            reason: "revoked".to_owned(),
            message: "its token is revoked".to_owned(),
            worker: None,
            label: Some("v2".parse().unwrap()),
            from: Some([10, 0, 0, 7].into()),
            times: 3,
            at,
        };
        let worker: segue_core::names::WorkerId = "AW_1".parse().unwrap();
        let kicked = Notice::WorkerSteered {
            worker: worker.clone(),
            release,
            what: Steer::Kick,
            reason: Some("it hangs".to_owned()),
            at,
        };
        let draining = Notice::WorkerDraining {
            worker,
            release,
            jobs: 2,
            by: DrainedBy::Membership,
            at,
        };
        for (notice, words) in [
            (
                rejected,
                "a worker that says it is of v2, from 10.0.0.7, was not let in (3 times): its token is revoked",
            ),
            (
                kicked,
                "worker AW_1 of v1 is to drain, and its connection is closed; its jobs go on (it hangs)",
            ),
            (
                draining,
                "worker AW_1 of v1 takes no more jobs, on the word of its membership; it has 2",
            ),
        ] {
            assert_eq!(say(notice), words);
        }
    }
}
