//! The control plane of Segue: it decides, writes down, publishes and carries out.

pub mod secret;

pub mod platform;

pub mod api;
