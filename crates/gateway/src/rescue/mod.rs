//! Rescue: a call whose worker died goes on at another worker of its release.

mod opening;
