//! The control plane of Segue: it decides, writes down, publishes and carries out.

mod clock;
pub mod secret;
pub mod state;

pub mod store;

pub mod link;

pub mod platform;

pub mod api;
