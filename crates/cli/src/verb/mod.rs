//! One file per verb.

pub(crate) mod act;
pub(crate) mod audit;
pub(crate) mod calls;
pub(crate) mod completions;
pub(crate) mod deploy;
pub(crate) mod init;
pub(crate) mod judge;
pub(crate) mod logs;
pub(crate) mod process;
pub(crate) mod sample_agent;
pub(crate) mod status;
