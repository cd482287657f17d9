//! What `/proc` says about processes.

use std::fs;
use std::io;

use rustix::io::Errno;

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    /// Its process group.
    pub(super) group: u32,
    /// In clock ticks since the boot.
    pub(super) start_time: u64,
    /// It has ended, and its parent has not noticed yet.
    pub(super) is_zombie: bool,
}

/// The boot this machine is in.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Who has a pid, if anybody.
pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(pid, &text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The name of the program stands in parentheses and may itself hold spaces and parentheses, so
/// fields are counted after the last one: the first of those is field 3.
fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        pid,
        group: field(5)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        is_zombie: matches!(field(3)?, "Z" | "X"),
    })
}

/// The process whose environment began with `name=value`. Its children inherit that, so of several
/// the leader of a process group counts, and of those the first.
pub(super) fn find_by_env(name: &str, value: &str) -> io::Result<Option<Stat>> {
    let wanted = format!("{name}={value}").into_bytes();
    let mut found: Vec<Stat> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let file_name = entry?.file_name();
        let Some(pid) = file_name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes of others cannot be read, and are none of ours.
        let Some(environ) = read_environ(pid)? else {
            continue;
        };
        if environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == wanted)
        {
            found.extend(stat(pid)?.filter(|stat| !stat.is_zombie));
        }
    }
    Ok(found
        .into_iter()
        .min_by_key(|stat| (stat.group != stat.pid, stat.start_time, stat.pid)))
}

/// A process and everything that it started.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// `name=value` in the environment of each.
    pub(super) marker: String,
    /// The leader of its process group, and when that was started, as far as that was written
    /// down.
    pub(super) leader: Option<(u32, Option<u64>)>,
}

/// Those of a group that live: they have its marker; or they are in its process group, and have no
/// other one by `name`.
pub(super) fn members(group: &Group, name: &str) -> io::Result<Vec<Stat>> {
    let id = match group.leader {
        Some((pid, start_time)) => {
            // A group that is led by another process than ours is another group.
            let leader = stat(pid)?;
            let other = |is: &Stat| start_time.is_some_and(|time| time != is.start_time);
            (!leader.as_ref().is_some_and(other)).then_some(pid)
        }
        None => None,
    };
    let others = format!("{name}=").into_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let file_name = entry?.file_name();
        let Some(pid) = file_name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(is) = stat(pid)?.filter(|stat| !stat.is_zombie) else {
            continue;
        };
        let environ = read_environ(pid)?.unwrap_or_default();
        let mut marks = environ
            .split(|byte| *byte == 0)
            .filter(|entry| entry.starts_with(&others));
        let ours = match marks.next() {
            Some(mark) => mark == group.marker.as_bytes(),
            None => id == Some(is.group),
        };
        if ours {
            found.push(is);
        }
    }
    Ok(found)
}

/// The environment of a process, if it is there and may be read. Anything else is an error: one
/// that is not found for want of a file descriptor is not gone.
fn read_environ(pid: u32) -> io::Result<Option<Vec<u8>>> {
    match environ(pid) {
        Ok(environ) => Ok(Some(environ)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// How often an empty environment is looked at again. An `exec` takes microseconds; a process that
/// really has none is told from one in the middle of it by nothing else.
const EMPTY_READS_MAX: usize = 500;

/// The environment of a process. In the middle of an `exec` it is empty for a moment, and taking
/// that for the truth would start a second process beside one that runs.
fn environ(pid: u32) -> io::Result<Vec<u8>> {
    let has_program = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    let reads = if has_program { EMPTY_READS_MAX } else { 1 };
    for _ in 0..reads {
        let environ = fs::read(format!("/proc/{pid}/environ"))?;
        if !environ.is_empty() {
            return Ok(environ);
        }
        std::thread::yield_now();
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let rest = "S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        for name in ["bot", "a b", "a) S 1 (b", ")"] {
            let stat = parse_stat(7, &format!("7 ({name}) {rest}")).unwrap();
            assert_eq!(
                (stat.group, stat.start_time, stat.is_zombie),
                (42, 987, false)
            );
        }
        assert_eq!(parse_stat(7, "7 (bot"), None);
    }

    #[test]
    fn we_are_alive() {
        let ours = stat(std::process::id()).unwrap().unwrap();
        assert!(ours.start_time > 0 && !ours.is_zombie);
        assert!(!boot_id().unwrap().is_empty());
    }
}
