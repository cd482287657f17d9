//! Free ports of loopback, and whose they were.
//!
//! A gateway may act by an older table for a while: it reads slowly, or the journal cannot be
//! written. So a worker comes back on the port it had, where that table still finds it; and a port
//! that was told to gateways is not given to a worker of another release for a while, where that
//! table would send it the calls of the first.
//!
//! A component has one port for as long as its release lives, and binds it anew whenever it is
//! started again. So it is none of those that the kernel hands to outgoing connections: such a
//! connection may last as long as a call, and nobody can listen where it began.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::names::ReleaseId;
use tokio::time::Instant;

use crate::secret::random_hex;

/// Tries to find a port that may be given. The kernel draws from some 28 000.
const TRIES_MAX: usize = 256;

/// Where ports for components are looked for: above those that services are known by, and below
/// those that Linux hands out by itself unless it is told otherwise.
const FIXED: RangeInclusive<u16> = 20_000..=29_999;

/// Ports that any user may listen on. They are looked through if those above do not suffice.
const UNPRIVILEGED: RangeInclusive<u16> = 1_024..=u16::MAX;

/// Which ports the kernel hands out, first and last.
const EPHEMERAL_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// How long a port stays with its release. An operator who mends a full disk needs minutes.
const APART: Duration = Duration::from_mins(10);

/// Ports that were given to workers.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(Arc<Mutex<Given>>);

#[derive(Debug, Default)]
struct Given {
    /// Some may not have been bound yet.
    held: BTreeSet<u16>,
    /// Those that were told to gateways: whose, and until when.
    past: BTreeMap<u16, (ReleaseId, Instant)>,
}

/// A port that is given to one worker until it is dropped.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    /// Whether it was told to gateways. One that never was can confuse nobody.
    pub(super) told: bool,
    release: ReleaseId,
    ports: Ports,
}

impl Port {
    /// The same, told to others from now on.
    pub(super) fn told(mut self) -> Self {
        self.told = true;
        self
    }
}

impl Given {
    fn take(&mut self, number: u16, release: ReleaseId, now: Instant) -> bool {
        let others = |(of, until): &(ReleaseId, Instant)| *of != release && now < *until;
        !self.past.get(&number).is_some_and(others) && self.held.insert(number)
    }

    fn keep_apart(&mut self, number: u16, release: ReleaseId, now: Instant) {
        self.past.retain(|_, (_, until)| now < *until);
        self.past.insert(number, (release, now + APART));
    }
}

impl Ports {
    /// Finds a free one: the former one, if it is. Somebody else may take it before the worker
    /// does: then the worker ends, and is started again with another.
    pub(super) fn pick(&self, release: ReleaseId, former: Option<u16>) -> io::Result<Port> {
        let take = |number| self.change(|given| given.take(number, release, Instant::now()));
        if let Some(number) = former.filter(|number| Self::is_free(*number))
            && take(number)
        {
            return Ok(self.hold(number, release, false));
        }
        for _ in 0..TRIES_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let number = listener.local_addr()?.port();
            if take(number) {
                return Ok(self.hold(number, release, false));
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free port was found",
        ))
    }

    /// Finds a free one that the kernel gives to no connection; or any, if there is none.
    pub(super) fn pick_fixed(&self, release: ReleaseId) -> io::Result<Port> {
        let ephemeral = ephemeral()?;
        let take = |number| self.change(|given| given.take(number, release, Instant::now()));
        let fits = |number: &u16| !ephemeral.contains(number) && Self::is_free(*number);
        let (first, all) = (*FIXED.start(), FIXED.len());
        // Others choose at the same time, from the same ports.
        let begin = usize::from_str_radix(&random_hex(2)?, 16).unwrap_or_default();
        let nth = |n: usize| first + u16::try_from((begin + n) % all).unwrap_or_default();
        let found = (0..all)
            .map(nth)
            .chain(UNPRIVILEGED.rev())
            .find(|number| fits(number) && take(*number));
        match found {
            Some(number) => Ok(self.hold(number, release, false)),
            None => self.pick(release, None),
        }
    }

    /// Whether nobody listens there.
    pub(super) fn is_free(number: u16) -> bool {
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
    }

    /// Notes one that an adopted worker has.
    pub(super) fn adopt(&self, number: u16, release: ReleaseId) -> Port {
        self.change(|given| given.held.insert(number));
        self.hold(number, release, true)
    }

    /// Notes one of a worker that ended while nobody looked.
    pub(super) fn keep_apart(&self, number: u16, release: ReleaseId) {
        self.change(|given| given.keep_apart(number, release, Instant::now()));
    }

    fn hold(&self, number: u16, release: ReleaseId, told: bool) -> Port {
        let ports = self.clone();
        Port {
            number,
            told,
            release,
            ports,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Given) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ports that the kernel gives to outgoing connections.
fn ephemeral() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string(EPHEMERAL_FILE)?;
    range_in(&text).ok_or_else(|| {
        let what = format!("{EPHEMERAL_FILE} does not hold two ports: {text:?}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

fn range_in(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(str::parse);
    let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(first..=last)
}

impl Drop for Port {
    fn drop(&mut self) {
        let (number, release) = (self.number, self.release);
        self.ports.change(|given| {
            given.held.remove(&number);
            if self.told {
                given.keep_apart(number, release, Instant::now());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stays_with_its_release_once_it_was_told() {
        let ports = Ports::default();
        let (ours, theirs) = (ReleaseId::of(b"ours"), ReleaseId::of(b"theirs"));
        let mut port = ports.pick(ours, None).unwrap();
        let number = port.number;
        assert_ne!(ports.pick(ours, Some(number)).unwrap().number, number);
        port.told = true;
        drop(port);
        assert_ne!(ports.pick(theirs, Some(number)).unwrap().number, number);
        let again = ports.pick(ours, Some(number)).unwrap();
        assert_eq!(again.number, number);
        drop(again);
        let (now, mut given) = (Instant::now(), Given::default());
        given.keep_apart(7, ours, now);
        assert!(!given.take(7, theirs, now + APART - Duration::from_millis(1)));
        assert!(given.take(7, theirs, now + APART));
    }

    #[test]
    fn a_port_that_nobody_heard_of_may_go_to_anybody() {
        let ports = Ports::default();
        let (ours, theirs) = (ReleaseId::of(b"ours"), ReleaseId::of(b"theirs"));
        let number = ports.pick(ours, None).unwrap().number;
        let again = ports.pick(theirs, Some(number)).unwrap();
        assert_eq!(again.number, number);
        // One that somebody else has bound is not given.
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = taken.local_addr().map(|addr| (addr.port(), taken)).unwrap();
        assert_ne!(ports.pick(ours, Some(taken.0)).unwrap().number, taken.0);
    }

    #[test]
    fn no_connection_takes_the_port_of_a_component() {
        let (ports, release) = (Ports::default(), ReleaseId::of(b"ours"));
        let ephemeral = ephemeral().unwrap();
        let held: Vec<Port> = (0..20)
            .map(|_| ports.pick_fixed(release).unwrap())
            .collect();
        let numbers: BTreeSet<u16> = held.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), held.len());
        for number in numbers {
            assert!(!ephemeral.contains(&number), "{number} in {ephemeral:?}");
            // It can be bound again and again.
            drop(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap());
            assert!(Ports::is_free(number));
        }
        assert_eq!(range_in("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "a b", "1 70000"] {
            assert_eq!(range_in(bad), None, "{bad}");
        }
    }
}
