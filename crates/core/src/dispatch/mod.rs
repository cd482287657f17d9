//! Jobs of LiveKit workers: which release, which worker, and what becomes of them.
//!
//! To the controller a dispatcher is a gateway whose calls are jobs. But a job is not a socket: it is
//! *offered* by the server, asked of a worker, promised, given, and then it runs where nobody of
//! ours sees it. So its life is here, as values: [`Dispatcher::step`] takes what happened and answers
//! what is to be done, and time is an argument.
//!
//! ## What it promises
//!
//! - The server is answered within [`ANSWER_WITHIN`], because it forgets the job soon after. Within
//!   that time a worker that refuses or says nothing is followed by the next one, and when all are
//!   busy the job is held for a moment.
//! - Deciding and counting are one step: once a table is installed, every job that was decided by an
//!   earlier one is in the counts, and no offer that is still open goes to a release that the table
//!   no longer sends jobs to.
//! - A release that drains gets no job, whatever its workers say; nor does a worker that drains. Each of
//!   those who may say so takes back only their own word.
//! - A closed socket ends no job. Its worker claims it when it is back; until then it is *away*, and
//!   counts as live for [`CLAIM_WITHIN`].
//! - A job stays with its worker. Only one whose worker was lost before it was given goes to another.
//!   Where it is asked for, a room whose agent died is dispatched again: that is another job.

mod book;
mod choose;
mod event;
mod facts;
mod job;
mod line;
mod worker;

mod claims;
mod dispatcher;
mod drains;
mod offers;
mod redispatch;
mod running;
mod vacancy;

pub use self::dispatcher::{Dispatcher, Settings};
pub use self::drains::Drains;
pub use self::event::{Action, Answer, Entry, Event, Note, WorkerStatus};
pub use self::facts::{Ask, Body, JobRecord, LineId, LineKey, WorkerKey};
pub use self::line::{LINES_MAX, LineStatus};
pub use self::redispatch::{
    LOOK_EVERY, LOOK_FIRST, LOOK_SELDOM, LOOKED_FOR, REDISPATCHES_MAX, REMEMBERED_FOR, ROOMS_MAX,
    SENDS_MAX, TAKEN_WITHIN,
};
pub use self::vacancy::{Again, Dispatched, RoomAsk, RoomSeen, Vacancy, VacancyStage};
pub use self::worker::Hello;

use crate::time::Millis;

/// From the server's offer to our answer. The server gives a job up after three seconds, with its
/// own way to us and back in them.
pub const ANSWER_WITHIN: Millis = Millis(2_000);

/// How long one worker is waited for: two of them must fit.
pub const ASK_FOR: Millis = Millis(800);

/// A worker is not asked when less than this is left: it could not be given what it takes.
pub const ASK_LEAST: Millis = Millis(50);

/// Times that workers are asked for one job. Refusals come at once, so many fit, but each costs two
/// messages.
pub const ASKED_MAX: usize = 16;

/// How long a job is held for a worker when all are busy, where nothing else is said.
pub const HOLD: Millis = Millis(1_500);

/// From a worker's promise to the server's assignment. The worker waits as long and then drops it.
pub const ASSIGNED_WITHIN: Millis = Millis(7_500);

/// How long a job that the server has assigned already may look for another worker.
pub const REPLACED_WITHIN: Millis = Millis(10_000);

/// How long a worker that did not answer is asked only if there is no other.
pub const SLOW_FOR: Millis = Millis::from_secs(30);

/// How long a new connection may be silent about its state before it is taken for available. A
/// draining worker that connects anew says so with its first status.
pub const UNHEARD_MAX: Millis = Millis(500);

/// How long a job whose worker is away counts as live. Workers try to come back for 130 seconds.
pub const CLAIM_WITHIN: Millis = Millis::from_secs(150);

/// The same for a worker that never says how its jobs are, as LiveKit's library for Node does not: it
/// does not claim them either. Until then the server says that they are over.
pub const MUTE_WITHIN: Millis = Millis::from_secs(3_600);

/// The same for a worker that has drained and closed in order: what is left of its jobs ends within
/// some 20 seconds. And for a job that the server has ended, whose worker may say so itself.
pub const TAIL: Millis = Millis::from_secs(25);

/// How often the server hears of a line that does not change. Workers do it as often.
pub const STATUS_EVERY: Millis = Millis(2_500);

/// How long changes of a line are gathered before the server hears of them.
pub const STATUS_SETTLES: Millis = Millis(100);

/// How long a line without workers stays registered.
pub const LINE_IDLE: Millis = Millis::from_secs(60);

/// Largest load that is told to the server, in thousandths: from 0.7 on it would prefer nodes
/// without any of our lines.
pub const LOAD_TOLD_MAX: u32 = 690;

/// What a job is taken to add to a worker's load until that worker says it, in thousandths.
pub const JOB_LOAD: u32 = 50;

/// Jobs at once: some 40 MB, and up to 8 KiB more each where jobs are dispatched again and carry
/// that much metadata.
pub const JOBS_MAX: usize = 50_000;

/// Longest version of a library that is kept, in bytes: real ones have ten.
pub const LIBRARY_BYTES_MAX: usize = 64;

/// Libraries of workers of one agent of which is known whether they say how their jobs are. Beyond,
/// each job finds it out for itself.
pub const LIBRARIES_MAX: usize = 256;

/// Jobs that one worker may claim: far more than one can have.
pub const CLAIMS_MAX: usize = 1_000;
