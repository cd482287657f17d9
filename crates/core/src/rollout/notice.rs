//! Notices: what befell workers beside a rollout. They are journaled because people and programs
//! want to hear of it, in the one log that cannot be changed; they decide nothing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{Label, ReleaseId, WorkerId};
use crate::plane::{DrainedBy, PlaneEvent, Steer, Told};
use crate::time::Timestamp;

/// Longest word and longest sentence that is taken over from others, in characters: what they say
/// may come from whoever tried to get in.
const WORD_CHARS_MAX: usize = 64;
const SENTENCE_CHARS_MAX: usize = 300;

/// What befell a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Notice {
    /// A worker was not let in.
    WorkerRejected {
        /// Why, in one word.
        reason: String,
        /// Why, in a sentence.
        message: String,
        /// Which, if it has a name that can be believed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<WorkerId>,
        /// The release that it says it is of; nobody has proved it.
        label: Option<Label>,
        /// Where it came from.
        from: Option<IpAddr>,
        /// How often, since the last notice of the same reason.
        times: u32,
        /// When it happened first.
        at: Timestamp,
    },
    /// A worker takes no more jobs from now on.
    WorkerDraining {
        /// Which.
        worker: WorkerId,
        /// Of which release.
        release: ReleaseId,
        /// How many jobs it still has.
        jobs: u32,
        /// On whose word.
        by: DrainedBy,
        /// When.
        at: Timestamp,
    },
    /// An operator does something with one worker.
    WorkerSteered {
        /// Which.
        worker: WorkerId,
        /// Of which release.
        release: ReleaseId,
        /// What.
        what: Steer,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// Key sets or a manifest that were offered are not believed; those before stay in force.
    MembershipRefused {
        /// `keys` or `manifest`.
        document: String,
        /// Why, in one word.
        reason: String,
        /// Why, in a sentence.
        message: String,
        /// How often, since the last notice of the same reason.
        times: u32,
        /// When it happened first.
        at: Timestamp,
    },
    /// A job whose worker died with its room still open was dispatched again.
    JobRedispatched {
        /// Keyed hash of its id: the log names no call.
        call: String,
        /// Of which release.
        release: ReleaseId,
        /// When.
        at: Timestamp,
    },
    /// More was told than is written down.
    EventsLeftOut {
        /// How much is missing since the last such notice.
        count: u64,
        /// When.
        at: Timestamp,
    },
}

impl Notice {
    /// What a dispatcher told. `hashed` is how the log names a call.
    pub fn told(event: PlaneEvent, hashed: impl FnOnce(&str) -> String) -> Self {
        let PlaneEvent {
            at, times, what, ..
        } = event;
        let word = |text: String| short(text, WORD_CHARS_MAX);
        let sentence = |text: String| short(text, SENTENCE_CHARS_MAX);
        match what {
            Told::WorkerRejected {
                reason,
                message,
                release,
                from,
            } => Self::WorkerRejected {
                reason: word(reason),
                message: sentence(message),
                worker: None,
                label: release,
                from,
                times,
                at,
            },
            Told::WorkerDraining {
                worker,
                release,
                jobs,
                by,
            } => Self::WorkerDraining {
                worker,
                release,
                jobs,
                by,
                at,
            },
            Told::MembershipRefused {
                document,
                reason,
                message,
            } => Self::MembershipRefused {
                document: word(document),
                reason: word(reason),
                message: sentence(message),
                times,
                at,
            },
            Told::JobRedispatched { job, release } => Self::JobRedispatched {
                call: hashed(job.as_str()),
                release,
                at,
            },
        }
    }
}

fn short(text: String, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Fact;

    fn event(what: Told) -> PlaneEvent {
        PlaneEvent {
            at: Timestamp(7),
            agent: "desk".parse().unwrap(),
            times: 3,
            what,
        }
    }

    #[test]
    fn what_strangers_say_is_cut_short() {
        let long = "ü".repeat(1_000);
        let told = event(Told::WorkerRejected {
            reason: long.clone(),
            message: long,
            release: None,
            from: None,
        });
        let Notice::WorkerRejected {
            reason,
            message,
            times: 3,
            ..
        } = Notice::told(told, str::to_owned)
        else {
            panic!("it is another notice");
        };
        let long = |text: &str| text.chars().count();
        assert_eq!((long(&reason), long(&message)), (65, 301));
    }

    #[test]
    fn the_log_names_no_call() {
        let job = "AJ_secret".parse().unwrap();
        let release = ReleaseId::of(b"v1");
        let told = event(Told::JobRedispatched { job, release });
        let notice = Notice::told(told, |call| format!("hash of {}", call.len()));
        let fact = serde_json::to_string(&Fact::Notice(notice)).unwrap();
        assert!(fact.contains("\"fact\":\"job_redispatched\""), "{fact}");
        assert!(fact.contains("hash of 9") && !fact.contains("AJ_secret"));
    }
}
