//! Room for descriptors: each call holds two, and growing the table of them stops every thread.

use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors there is room for from the start: 512 KiB of the kernel's memory at most.
const ROOM_MAX: u64 = 65_536;

/// Raises the limit on descriptors as far as it goes (the usual soft limit is 1024), and has the
/// kernel make its table as long as it may become. Else the table doubles again and again while
/// calls come in, and in a process with threads each time waits for all processors to be done with
/// the old one: 4 to 15 ms, in the middle of a handoff.
pub fn make_room() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on descriptors stays as it is");
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(ROOM_MAX);
    let last = most.min(ROOM_MAX).saturating_sub(1);
    let far = |any: OwnedFd| {
        let last = i32::try_from(last).expect("far fewer than 2^31");
        rustix::io::fcntl_dupfd_cloexec(&any, last)
    };
    let any = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
    if let Err(error) = any.and_then(far) {
        tracing::debug!(%error, "the table of descriptors grows later");
    }
}
