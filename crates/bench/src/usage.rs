//! What processes have used, as the kernel counts it.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Pid;

/// Of some processes and everything they have started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// In user and system mode, of all threads.
    pub(crate) cpu_seconds: f64,
    /// Resident memory: anonymous, of files, and shared.
    pub(crate) rss_kib: f64,
    pub(crate) processes: usize,
}

impl Usage {
    pub(crate) fn of(roots: &[Pid]) -> Self {
        let stats = stats();
        let mut wanted: BTreeSet<i32> =
            roots.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        // A child has a larger number than its parent but for a wrap; once more for each generation.
        loop {
            let before = wanted.len();
            let children = stats.iter().filter(|stat| wanted.contains(&stat.parent));
            let children: Vec<i32> = children.map(|stat| stat.pid).collect();
            wanted.extend(children);
            if wanted.len() == before {
                break;
            }
        }
        let mut usage = Self::default();
        for stat in stats.iter().filter(|stat| wanted.contains(&stat.pid)) {
            usage.cpu_seconds += stat.ticks / ticks_per_second();
            usage.rss_kib += rss_kib(stat.pid);
            usage.processes += 1;
        }
        usage
    }
}

struct Stat {
    pid: i32,
    parent: i32,
    ticks: f64,
}

fn stats() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(stat).collect()
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A name may hold anything, also brackets and spaces.
    let (_, after) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split(' ').collect();
    // See proc_pid_stat(5), whose third field is the first one here.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks(14)? + ticks(15)?,
    })
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a hundred, on every Linux there is"
)]
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn rss_kib(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let me = [rustix::process::getpid()];
        let before = Usage::of(&me);
        assert!(before.rss_kib > 100.0, "{before:?}");
        assert_eq!(before.processes, 1);
        let mut work = 0_u64;
        while Usage::of(&me).cpu_seconds <= before.cpu_seconds {
            work = std::hint::black_box(work + 1);
        }
        let filled = vec![1_u8; 32 << 20];
        let after = Usage::of(&me);
        assert!(
            after.rss_kib > before.rss_kib + 16_384.0,
            "{before:?} {after:?}"
        );
        assert_eq!(filled.len(), 32 << 20);
    }
}
