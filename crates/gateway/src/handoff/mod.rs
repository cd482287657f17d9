//! Two processes of one gateway exchange its live calls.
pub(crate) mod bytes;
