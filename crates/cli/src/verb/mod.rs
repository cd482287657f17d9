//! One file per verb.

pub(crate) mod act;
pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod calls;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod deploy;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod judge;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod permits;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod reload;
pub(crate) mod rollback;
pub(crate) mod sample_agent;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod upgrade;
