//! How the sockets of a running call grow old: what is done once it has lasted, and who else has
//! them.

use super::super::call::{Age, season};
use super::Running;

impl Running {
    /// Whether it is to be looked at again when it has lasted: to be seasoned, or to be held.
    pub(in super::super) fn is_young(&self) -> bool {
        match self.age.get() {
            Age::Fresh => true,
            Age::Seasoned | Age::Shared | Age::Doubted => self.slot.is_keepable(),
            Age::Held => false,
        }
    }

    /// Does what only a call needs that lasts, once.
    pub(in super::super) fn season(&self) {
        if self.age.get() == Age::Fresh {
            season(&self.slot, &self.caller, &self.worker);
            self.age.set(Age::Seasoned);
        }
    }

    /// Another process is given duplicates of its sockets.
    pub(in super::super) fn set_shared(&self) {
        if !self.is_shared() {
            self.age.set(Age::Shared);
        }
    }

    /// Whether closing its sockets may not end them.
    pub(in super::super) fn is_shared(&self) -> bool {
        matches!(self.age.get(), Age::Shared | Age::Held | Age::Doubted)
    }

    /// The keeper was given them.
    pub(in super::super) fn set_held(&self) {
        self.age.set(Age::Held);
    }

    /// Whether the keeper was given them.
    pub(in super::super) fn is_held(&self) -> bool {
        self.age.get() == Age::Held
    }

    /// The keeper may have lost them.
    pub(in super::super) fn set_unheld(&self) {
        if self.is_held() {
            self.age.set(Age::Doubted);
        }
    }

    /// Whether the keeper is to be told that they ended.
    pub(in super::super) fn is_to_release(&self) -> bool {
        matches!(self.age.get(), Age::Held | Age::Doubted)
    }
}
