//! Jobs of LiveKit workers, given out by the releases of their agents.
//!
//! Workers speak the agent worker protocol to us instead of to LiveKit, and we speak it to LiveKit
//! in their place. A job goes to a worker of the release that the routing table chooses, with the
//! address of the real server: media never passes here.

pub mod proto;
