//! Who runs workers.

pub mod process;
