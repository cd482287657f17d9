//! Writing permits down, beside the driver: a file that is locked makes who dials wait, and never
//! who decides.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Book, NoPermit, Shelf};
use crate::driver::{Permitted, blocking, describe};
use crate::store::{PermitChange, PermitStore};

/// Changes that wait to be written; more are refused, and whoever asks tries again. As many as the
/// API has connections.
pub(crate) const WRITES_MAX: usize = 256;
/// Changes written with one sync.
const BATCH_MAX: usize = 64;

/// A change on its way to the disk. It counts already where that is the safe side.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) change: PermitChange,
    /// What the book says if it cannot be written.
    pub(super) undo: Undo,
    /// Who waits for it, and what they are told.
    pub(super) answer: Option<(oneshot::Sender<Permitted>, Permitted)>,
}

/// How a change that was not written is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undo {
    /// It was never given.
    Forget,
    /// It ends when it did before.
    Restore(segue_core::time::Timestamp),
    /// It goes on counting.
    Stay,
}

/// Writes until nobody can ask for it any more, and what was asked for until then.
pub(super) async fn write(
    store: Arc<dyn PermitStore>,
    book: Shelf,
    mut writes: mpsc::Receiver<Write>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while writes.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let changes: Vec<PermitChange> = batch.iter().map(|write| write.change.clone()).collect();
        let to = Arc::clone(&store);
        let written = blocking(move || to.write(&changes)).await;
        let error = written.err().map(|error| describe(&error));
        if let Some(why) = &error {
            tracing::warn!(why, "permits could not be written down");
        }
        for write in batch.drain(..) {
            let mut book = Book::lock(&book);
            match &error {
                None => book.written(&write.change),
                Some(_) => book.take_back(&write.change, write.undo),
            }
            drop(book);
            if let Some((reply, answer)) = write.answer {
                let failed = |why: &String| Err(NoPermit::Store(why.clone()).into());
                // Whoever asked may have gone: a permit that they never heard of ends by itself.
                let _ = reply.send(error.as_ref().map_or(answer, failed));
            }
        }
    }
}
