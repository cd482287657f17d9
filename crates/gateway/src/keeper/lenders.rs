//! Which sockets of one ward another one has already.
//!
//! A gateway that takes calls over has the sockets that the one before it had. As long as both
//! count, each call would take twice its descriptors; where there are not so many, the two wards
//! have the same ones.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::ward::Wards;
use super::wire::{CallKey, WardId};

/// Who else has the sockets of the calls of a ward.
pub(super) struct Lenders {
    borrower: WardId,
    /// By the socket of the caller.
    by_inode: HashMap<u64, (WardId, CallKey)>,
}

impl Lenders {
    pub(super) fn find(borrower: WardId, wards: &Wards<OwnedFd>) -> Self {
        let mut by_inode = HashMap::new();
        for (id, ward) in wards.beside(borrower) {
            for call in ward.keys() {
                let ends = ward.ends(call).expect("it has this key");
                by_inode.extend(inode(&ends[0]).map(|inode| (inode, (id, call))));
            }
        }
        Self { borrower, by_inode }
    }

    /// Whether they were looked up for this ward.
    pub(super) fn are_of(&self, borrower: WardId) -> bool {
        self.borrower == borrower
    }

    /// Who has the call of this caller.
    pub(super) fn lent(
        &self,
        caller: &OwnedFd,
        wards: &Wards<OwnedFd>,
    ) -> Option<(WardId, CallKey)> {
        let wanted = inode(caller)?;
        let (ward, call) = *self.by_inode.get(&wanted)?;
        // That one may have ended meanwhile, and its number be another's.
        let ends = wards.get(ward)?.ends(call)?;
        (inode(&ends[0]) == Some(wanted)).then_some((ward, call))
    }
}

/// Tells one socket from another, whoever holds it.
fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino)
}
