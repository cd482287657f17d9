//! What dead gateways left, put together again.
//!
//! It reads what the keeper holds of each: memory, listener, sockets. A call that can go on comes
//! out as one that was handed over does. One that cannot is told so, if that is possible, closed,
//! and named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::net::sockopt;
use segue_core::names::{AgentName, CallId};
use segue_core::time::Timestamp;

use crate::handoff::TakenCall;
use crate::journal::Lost;
use crate::ledger::Identity;
use crate::relay::{Side, goodbye};
use crate::slots;

use super::session::Orphan;
use super::wire::{CallKey, WardId};

/// Tells a call that its gateway failed and that it may come back at once: "service restart" of
/// the registry of RFC 6455 close codes.
const RESTARTED: u16 = 1012;

/// Goes with [`RESTARTED`].
const RESTARTED_REASON: &str = "gateway restarted";

/// What came out of orphaned wards.
#[derive(Default)]
pub(crate) struct Recovered {
    /// They go on.
    pub(crate) calls: Vec<TakenCall>,
    /// They do not.
    pub(crate) lost: Vec<Lost>,
    /// Where callers wait.
    pub(crate) listeners: Vec<TcpListener>,
    /// The wards, to be owned before anything is relayed.
    pub(crate) wards: Vec<WardId>,
}

impl Recovered {
    /// Reads wards of gateways that are dead. Nothing is read from a socket or written to it, but
    /// for the last word to a call that ends here; so whoever dies over this leaves it as it was.
    pub(crate) fn read(mut orphans: Vec<Orphan>) -> Self {
        // The newest first: a gateway that died before the keeper heard that it had taken an older
        // ward over has moved its calls further since.
        orphans.sort_by_key(|orphan| std::cmp::Reverse(orphan.ward));
        let (mut all, mut seen) = (Self::default(), BTreeSet::new());
        all.wards = orphans.iter().map(|orphan| orphan.ward).collect();
        for orphan in by_gateway(orphans) {
            all.listeners.extend(orphan.listener.map(TcpListener::from));
            let Some(memory) = orphan.memory else {
                tracing::error!("a gateway left sockets and no memory of them");
                continue;
            };
            let found = match slots::recover(memory) {
                Ok(found) => found,
                Err(error) => {
                    let calls = orphan.calls.len();
                    tracing::error!(%error, calls, "calls cannot be taken back");
                    continue;
                }
            };
            let mut sockets = orphan.calls;
            for call in found {
                let key = CallKey {
                    slot: call.number,
                    generation: call.generation,
                };
                let ends = sockets.remove(&key).map(|ends| ends.map(TcpStream::from));
                let inode = ends.as_ref().and_then(|ends| inode(&ends[0]));
                let known = inode.is_some_and(|inode| !seen.insert(inode));
                if !known {
                    all.take(&call, ends);
                }
            }
            // What is left had ended, and only the keeper was not told.
        }
        all
    }

    fn take(&mut self, call: &slots::Found, ends: Option<[TcpStream; 2]>) {
        let Some([caller, worker]) = ends else {
            self.lost.extend(call.lost());
            return;
        };
        match call.reconcile(&caller, &worker) {
            Ok(moved) => self.calls.push(TakenCall {
                moved,
                caller,
                worker,
            }),
            Err(error) => {
                let lost = call.lost();
                let id = lost.as_ref().map(|lost| lost.identity.call.as_str());
                let was_in_hand = call.was_in_hand();
                tracing::error!(call = id, %error, was_in_hand, "a call cannot go on");
                self.lost.extend(lost);
                for (side, socket) in [(Side::Caller, &caller), (Side::Worker, &worker)] {
                    if call.is_whole(side, &caller, &worker) {
                        say_restarted(side, socket);
                    }
                    // An error means that it is gone already.
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
        }
    }

    /// The listener that listens at `addr`, if one was left. The others are closed with the rest.
    pub(crate) fn listener(&mut self, addr: SocketAddr) -> Option<TcpListener> {
        let fits = |listener: &TcpListener| {
            let listens = sockopt::socket_acceptconn(listener).unwrap_or(false);
            let at = listener.local_addr();
            listens
                && at.is_ok_and(|at| {
                    at.ip() == addr.ip() && (addr.port() == 0 || at.port() == addr.port())
                })
        };
        let at = self.listeners.iter().position(fits)?;
        Some(self.listeners.swap_remove(at))
    }

    /// The connections that were taken back or are known to be lost.
    pub(crate) fn known(&self) -> Known {
        let mut known = Known::default();
        for call in &self.calls {
            known.add(&call.moved.connection.identity);
        }
        for lost in &self.lost {
            known.add(&lost.identity);
        }
        known
    }
}

/// Connections that a journal may still list, although they are no longer to be found out about.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<(AgentName, CallId, Timestamp), u32>);

impl Known {
    fn add(&mut self, identity: &Identity) {
        *self.0.entry(key(identity)).or_default() += 1;
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }

    /// Takes them out of what a journal lists as lost. Each counts once: several connections of a
    /// call may have begun in the same millisecond.
    pub(crate) fn strike_from(&mut self, lost: &mut Vec<Lost>) {
        lost.retain(|lost| match self.0.get_mut(&key(&lost.identity)) {
            Some(count @ 1..) => {
                *count -= 1;
                false
            }
            _ => true,
        });
        self.0.retain(|_, count| *count > 0);
    }
}

fn key(identity: &Identity) -> (AgentName, CallId, Timestamp) {
    let Identity {
        agent, call, since, ..
    } = identity;
    (agent.clone(), call.clone(), *since)
}

/// One for each gateway: one that lost its connection to the keeper and was killed before it had
/// told everything again leaves two wards of the same calls.
fn by_gateway(orphans: Vec<Orphan>) -> Vec<Orphan> {
    let mut all: Vec<(Option<u64>, Orphan)> = Vec::new();
    for orphan in orphans {
        let memory = orphan.memory.as_ref().and_then(inode);
        let same = |(other, _): &&mut (Option<u64>, Orphan)| memory.is_some() && *other == memory;
        match all.iter_mut().find(same) {
            Some((_, there)) => {
                for (call, ends) in orphan.calls {
                    there.calls.entry(call).or_insert(ends);
                }
                there.listener = there.listener.take().or(orphan.listener);
            }
            None => all.push((memory, orphan)),
        }
    }
    all.into_iter().map(|(_, orphan)| orphan).collect()
}

/// Tells one socket from another, or one memory, whoever holds it.
fn inode(of: &impl AsFd) -> Option<u64> {
    rustix::fs::fstat(of).ok().map(|stat| stat.st_ino)
}

/// Says goodbye to a side to which whole frames went.
fn say_restarted(to: Side, socket: &TcpStream) {
    let frame = goodbye(to, RESTARTED, RESTARTED_REASON);
    // A side that does not take thirty bytes hears nothing.
    let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
    let _ = rustix::net::send(socket, &frame, flags);
}
