//! One call that is here.

use std::sync::Arc;

use segue_core::names::CallId;

use crate::inner::Inner;
use crate::outcome::Outcome;

/// A call, or one connection of it, as long as this value lives. Dropping it is the call's end.
#[derive(Debug)]
pub struct Call {
    inner: Arc<Inner>,
    id: CallId,
}

impl Call {
    pub(crate) fn new(inner: Arc<Inner>, id: CallId) -> Self {
        Self { inner, id }
    }

    /// Which.
    pub fn id(&self) -> &CallId {
        &self.id
    }

    /// Says how it went. It reaches Segue when that can be reached.
    pub fn report(&self, outcome: Outcome) {
        self.inner.report(&self.id, outcome);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // It entered, so it exits.
        let _ = self.inner.exit(&self.id);
    }
}
