//! What Segue costs a call, beside what other proxies cost it, measured in one run.
//!
//! A director starts a proxy, a generator of calls and two agents that echo, each a process of its
//! own, gives all proxies the same processor and all generators and agents the other one, and
//! reads what they used from the kernel. Every payload is rebuilt and compared when it comes back.

mod histogram;
mod poller;
mod wire;

mod drive;
mod echo;
mod relay;

mod part;

mod crew;
mod peers;
mod usage;

mod modes;
mod results;
mod run;

pub use self::crew::Crew;
pub use self::drive::DriveSpec;
pub use self::modes::Mode;
pub use self::part::{Part, PartSpec, run as run_part};
pub use self::peers::{Programs, Target};
pub use self::relay::Damage;
pub use self::results::{Figure, Results, Spread};
pub use self::run::{Options, run};

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Somebody stopped it.
    #[error("stopped")]
    Stopped,
    /// A file or port that is needed beforehand.
    #[error("the run cannot be prepared")]
    Prepare(#[source] std::io::Error),
    /// A process did not start.
    #[error("{name} does not start")]
    Start {
        /// Which.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A process did not do its part.
    #[error("{name} {what}: {said}")]
    Part {
        /// Which.
        name: String,
        /// What is wrong.
        what: String,
        /// What it wrote last.
        said: String,
    },
    /// A peer that is not there.
    #[error("{} is not installed", .0.name())]
    Missing(Target),
}
