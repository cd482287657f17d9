//! The agent by itself.
