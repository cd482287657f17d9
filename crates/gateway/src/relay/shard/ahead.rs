//! Calls that come ahead of a handoff: they lie here, watched but not touched, while another process
//! still relays them.
//!
//! A shard that has such calls asks its epoll nothing, so that nothing of them is read. They are
//! watched already: the moment that they are ours, all that came meanwhile is there to be read.

use std::collections::HashMap;

use crate::slots::Delta;

use super::super::call::LiveCall;
use super::super::interest::Interest;
use super::super::running::{Running, Sketch};
use super::super::side::Side;
use super::{Shard, epoll, io, pack};

/// Calls in one look at them: bounds how long frames wait for it.
const SKETCHES_MAX: usize = 32;

/// Calls of another process.
#[derive(Default)]
pub(super) struct Awaited {
    /// Where they are, by their numbers there.
    calls: HashMap<u64, u32>,
    /// Those that go on.
    caught_up: Vec<u32>,
    /// Those of them that want more than to be read.
    busy: Vec<u32>,
}

/// What became of calls that came ahead.
#[derive(Default)]
pub(in super::super) struct CaughtUp {
    /// So many go on.
    pub(crate) calls: usize,
    /// The others, by their numbers there.
    pub(crate) gone: Vec<(u64, LiveCall)>,
}

impl Shard {
    /// Some of the calls from this place on, and from where on there may be more.
    pub(super) fn sketch(&self, from: usize) -> (Vec<Sketch>, Option<usize>) {
        let mut sketches = Vec::with_capacity(SKETCHES_MAX);
        for index in from..self.places.len() {
            if sketches.len() == SKETCHES_MAX {
                return (sketches, Some(index));
            }
            sketches.extend(self.places[index].as_ref().and_then(Running::sketch));
        }
        (sketches, None)
    }

    /// Takes calls in that another process relays.
    ///
    /// # Errors
    ///
    /// When there is no room to watch them. They are here all the same, and are to be given back:
    /// one that is dropped is counted as ended.
    pub(super) fn wait_with(&mut self, calls: Vec<(u64, LiveCall)>) -> io::Result<()> {
        self.awaited.get_or_insert_default();
        let mut done = Ok(());
        for (number, call) in calls {
            let Some(index) = self.place(call) else {
                done = done.and(Err(io::Errno::NOMEM));
                continue;
            };
            if done.is_ok() {
                done = self.watch_ahead(index);
            }
            if let Some(awaited) = &mut self.awaited {
                awaited.calls.insert(number, index);
            }
        }
        done
    }

    /// Has both sockets of a call watched, as it wants while nothing but frames comes.
    fn watch_ahead(&mut self, index: u32) -> io::Result<()> {
        let Some(call) = &mut self.places[index as usize] else {
            return Ok(());
        };
        for side in Side::BOTH {
            let data = epoll::EventData::new_u64(pack(index, call.generation, side));
            epoll::add(&self.epoll, call.socket(side), data, Interest::Read.flags())?;
            call.interest[side.index()] = Interest::Read;
        }
        Ok(())
    }

    /// They stand still there, and are to be as it says; those of which nothing is said have ended.
    pub(super) fn catch_up(&mut self, deltas: &[Delta]) -> CaughtUp {
        let Some(mut awaited) = self.awaited.take() else {
            return CaughtUp::default();
        };
        let mut calls = std::mem::take(&mut awaited.calls);
        for delta in deltas {
            if let Some(index) = calls.remove(&delta.number)
                && let Some(call) = &self.places[index as usize]
            {
                call.catch_up(delta);
                awaited.caught_up.push(index);
                if !delta.is_plain() {
                    awaited.busy.push(index);
                }
            }
        }
        let gone = calls.into_iter().filter_map(|(number, index)| {
            let call = self.remove(index)?;
            Some((number, call.into_call()))
        });
        let caught_up = CaughtUp {
            gone: gone.collect(),
            calls: awaited.caught_up.len(),
        };
        self.awaited = Some(awaited);
        caught_up
    }

    /// They are ours.
    pub(super) fn go_on(&mut self) {
        let Some(awaited) = self.awaited.take() else {
            return;
        };
        for index in awaited.caught_up {
            self.hold_if_young(index);
        }
        for index in awaited.busy {
            self.begin(index);
        }
    }

    /// Does as it is told until there are no calls that may not be touched. False: stop.
    pub(super) fn await_word(&mut self) -> bool {
        while self.awaited.is_some() {
            let Ok(command) = self.commands.recv() else {
                return false;
            };
            if !self.on_command(command) {
                return false;
            }
        }
        // Whoever told us meanwhile has us woken.
        self.wake.reset();
        self.on_commands()
    }

    /// Calls that another process may still relay must not end with this thread.
    pub(super) fn forget_awaited(&mut self) {
        if self.awaited.is_some() {
            self.give_all().into_iter().for_each(LiveCall::given);
        }
    }
}
