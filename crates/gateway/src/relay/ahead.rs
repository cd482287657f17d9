//! Ahead of a handoff: what is shown to the next process while calls flow, and what that does with
//! it until they are its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use crate::ledger::Ticket;
use crate::slots::Delta;

use super::running::Sketch;
use super::shard::Command;
use super::{LiveCall, Relay};

/// What became of calls that came ahead.
#[derive(Default)]
pub(crate) struct CaughtUp {
    /// So many go on.
    pub(crate) calls: usize,
    /// Those that ended, by their numbers there: each is counted here until it is settled.
    pub(crate) gone: Vec<(u64, Ticket)>,
    /// What those were to the keeper: slot and generation. Their slots are free.
    pub(crate) released: Vec<(u32, u32)>,
}

impl Relay {
    /// Shows each call that can be taken over, with duplicates of its sockets, to `each`; some at a
    /// time, so that no frame waits and few descriptors are there twice. Calls flow on.
    ///
    /// # Errors
    ///
    /// That of `each`, which is not asked again.
    pub(crate) fn sketch<E>(
        &self,
        mut each: impl FnMut(Vec<Sketch>) -> Result<(), E>,
    ) -> Result<(), E> {
        for shard in &self.shards {
            let mut next = Some(0);
            while let Some(from) = next.take() {
                let (reply, sketches) = channel();
                // A shard that is gone holds no calls.
                let _ = shard.send(Command::Sketch(from, reply));
                let Ok((sketches, more)) = sketches.recv() else {
                    break;
                };
                each(sketches)?;
                next = more;
            }
        }
        Ok(())
    }

    /// Takes calls in that another process still relays, with their numbers there. None of them is
    /// touched, nor any other one, until [`Relay::go_on`].
    ///
    /// # Errors
    ///
    /// When there is no room for them. They are here all the same, and are to be given back:
    /// [`Relay::give_all`].
    pub(crate) fn await_calls(&self, calls: Vec<(u64, LiveCall)>) -> io::Result<()> {
        let share = calls.len().div_ceil(self.shards.len()).max(1);
        let mut calls = calls.into_iter();
        let mut done = Ok(());
        // Each time another shard is the first: a few calls at a time come to all of them, too.
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let (before, from) = self.shards.split_at(first);
        for shard in from.iter().chain(before) {
            let calls: Vec<_> = calls.by_ref().take(share).collect();
            if calls.is_empty() {
                break;
            }
            let (reply, answer) = channel();
            if let Err(Command::Await(unsent, _)) = shard.send(Command::Await(calls, reply)) {
                for (_, call) in unsent {
                    call.given();
                }
            }
            done = done.and(match answer.recv() {
                Ok(answer) => answer.map_err(io::Error::from),
                Err(_) => Err(io::Error::other("a relay thread is gone")),
            });
        }
        done
    }

    /// The calls that came ahead stand still and are to be as it says; those of which nothing is
    /// said have ended.
    pub(crate) fn catch_up(&self, deltas: Vec<Delta>) -> CaughtUp {
        let (deltas, mut all) = (Arc::new(deltas), CaughtUp::default());
        let (reply, answers) = channel();
        for shard in &self.shards {
            let _ = shard.send(Command::CatchUp(Arc::clone(&deltas), reply.clone()));
        }
        drop(reply);
        for answer in answers {
            all.calls += answer.calls;
            for (number, mut call) in answer.gone {
                if let Some(slot) = call.slot.take() {
                    all.released.push((slot.number(), slot.generation()));
                }
                all.gone.push((number, call.ticket));
            }
        }
        all
    }

    /// Relays the calls that came ahead: they are ours.
    pub(crate) fn go_on(&self) {
        for shard in &self.shards {
            let _ = shard.send(Command::GoOn);
        }
    }
}
