//! Everything in Segue that speaks and hears.
//!
//! Calls are Twilio Media Streams: JSON text over a WebSocket, mu-law audio at 8 kHz in frames of
//! 20 ms. The crate holds both ends of such a call, so that a release can be tried with a real
//! conversation and no carrier, and a judge that says afterwards what became of each call.
//!
//! - [`audio`]: samples, mu-law, voice detection. [`likeness`]: is that what we expected to hear.
//! - [`clips`]: the recorded sentences, and [`clips::Audio`], which is speech ready to be sent.
//! - [`twilio`]: the messages of the wire.
//! - [`agent`]: the sample agent, with its [`fault`]s. [`caller`]: the synthetic caller.
//! - [`scenario`]: one scripted call with a verdict. [`judge`]: the verdict over many, from logs.
//! - [`random`]: repeatable randomness. [`calllog`]: the JSON lines both ends write, which are all the judge believes.

pub mod agent;
pub mod audio;
pub mod caller;
pub mod calllog;
pub mod clips;
pub mod fault;
pub mod judge;
pub mod likeness;
pub mod random;
pub mod scenario;
pub mod twilio;

mod conversation;
mod hearing;
mod http;
mod script;
mod socket;
