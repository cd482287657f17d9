//! Every limit of the configuration, each with its reason. The reason is also the hint of the
//! fault, so it is written for the operator.

use std::fmt;

use crate::split::Share;
use crate::time::Millis;

/// The values a key may take, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<T> {
    pub(super) min: T,
    pub(super) max: T,
    /// Why, as a hint.
    pub(super) why: &'static str,
}

impl<T: PartialOrd> Bound<T> {
    pub(super) fn holds(&self, value: &T) -> bool {
        (&self.min..=&self.max).contains(&value)
    }
}

impl<T: fmt::Display> fmt::Display for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// Longest file: thousands of listed callers fit, and a reader never holds more than this.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;

/// Agents of one Segue: each has workers, a journal and a routing table.
pub(super) const AGENTS_MAX: usize = 100;

/// Items of a list that a person writes: arguments, hosts, sources.
pub(super) const ITEMS_MAX: usize = 256;

/// Callers, tenants or keys of one rule: every new call is compared with each of them.
pub(super) const LISTED_MAX: usize = 10_000;

/// Rules of one agent: every new call is compared with each of them.
pub(super) const RULES_MAX: usize = 100;

/// Steps of one ramp: more are not watched by a person, and each costs its duration.
pub(super) const STEPS_MAX: usize = 20;

pub(super) const WORKERS: Bound<u32> = Bound {
    min: 1,
    max: 1_000,
    why: "each worker is a process with a port of its own; two releases run at once",
};

pub(super) const CAPACITY: Bound<u32> = Bound {
    min: 1,
    max: 100_000,
    why: "calls that one worker may hold; one process has no more sockets than this",
};

pub(super) const TAILS: Bound<u32> = Bound {
    min: 0,
    max: 10,
    why: "each tail is a whole set of workers that still runs",
};

pub(super) const STICKINESS: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(HOUR),
    why: "it must be no longer than the longest call, never hours: every release is kept for at \
          least this long after its last call",
};

pub(super) const STRAGGLER_BUFFER: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(24 * HOUR),
    why: "a drained release keeps all of its workers for this long",
};

pub(super) const STANDBY: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(7 * 24 * HOUR),
    why: "a release on standby keeps all of its workers for this long",
};

pub(super) const READY_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(SECOND),
    max: Millis(HOUR),
    why: "a worker that is not ready by then does not get ready; it fails the deploy",
};

pub(super) const SMOKE_CALLS: Bound<u32> = Bound {
    min: 1,
    max: 100,
    why: "smoke calls are made one after the other",
};

pub(super) const SMOKE_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(SECOND),
    max: Millis(HOUR),
    why: "it covers all of the smoke calls, and the deploy waits for them",
};

pub(super) const STEP_SHARE: Bound<Share> = Bound {
    min: Share(1),
    max: Share(Share::ALL.0 - 1),
    why: "100% is the cutover itself, which follows the last step; leave it out",
};

pub(super) const STEP_DURATION: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(7 * 24 * HOUR),
    why: "for a longer step write `pause = true` and resume it by hand",
};

pub(super) const LIMIT_SHARE: Bound<Share> = Bound {
    min: Share::NONE,
    max: Share::ALL,
    why: "a share of calls, such as \"2%\"",
};

pub(super) const CALLS: Bound<u64> = Bound {
    min: 1,
    max: 1_000_000,
    why: "a number of calls that an agent takes in a rollout",
};

/// Receivers of notifications: each is asked for every decision it wants to know of.
pub(super) const NOTIFY_MAX: usize = 16;

/// Webhooks of one agent: all of them must agree to each deploy.
pub(super) const WEBHOOKS_MAX: usize = 8;

/// Components of one agent: each is a process of every release that runs.
pub(super) const COMPONENTS_MAX: usize = 16;

/// Longest address that is called, in bytes: what servers commonly take.
pub(super) const URL_BYTES_MAX: usize = 2_048;

/// Longest text of a notification before it is filled in, in bytes: chats show no more.
pub(super) const TEMPLATE_BYTES_MAX: usize = 4_096;

pub(super) const CONNECTIONS: Bound<u32> = Bound {
    min: 1,
    max: 100_000,
    why: "each may hold a head of 32 KiB and a descriptor of the process",
};

pub(super) const HEAD_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(100),
    max: Millis(60 * SECOND),
    why: "a head is one packet or a few; who takes longer holds a connection for nothing",
};

pub(super) const BODY_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(100),
    max: Millis(300 * SECOND),
    why: "who takes longer holds a connection and memory; bodies are webhooks, no uploads",
};

pub(super) const STALL_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(100),
    max: Millis(600 * SECOND),
    why: "who does not read holds a worker's connection",
};

pub(super) const RATE_LIMIT: Bound<u32> = Bound {
    min: 1,
    max: 10_000,
    why: "requests per second that one token may make; `segue top` needs ten",
};

pub(super) const BAKE: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(24 * HOUR),
    why: "the release before it keeps all of its workers for this long",
};

pub(super) const WEBHOOK_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(100),
    max: Millis(30 * SECOND),
    why: "the deploy waits for it; who needs longer is better an approval",
};

pub(super) const WEBHOOK_RETRIES: Bound<u32> = Bound {
    min: 0,
    max: 10,
    why: "the deploy waits for all tries; then a person decides",
};

pub(super) const HOOK_TIMEOUT: Bound<Millis> = Bound {
    min: Millis(SECOND),
    max: Millis(HOUR),
    why: "the deploy waits for it; run a longer migration beside it",
};

pub(super) const CEILING: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(7 * 24 * HOUR),
    why: "it counts from the beginning of the drain; leave it out to wait for the last call",
};

pub(super) const HOLD: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(1_900),
    why: "the server gives a job up after three seconds, and must hear of it before",
};

pub(super) const OPENING_MESSAGES: Bound<u32> = Bound {
    min: 0,
    max: 8,
    why: "the gateway keeps them for every call; what came later a worker reads from the state of \
          the call",
};

pub(super) const JITTER: Bound<Millis> = Bound {
    min: Millis(0),
    max: Millis(HOUR),
    why: "so that calls that are asked to come back do not come all at once",
};

pub(super) const PER_SECOND: Bound<u32> = Bound {
    min: 1,
    max: 1_000,
    why: "each call that is ended or handed off may come back at once",
};
