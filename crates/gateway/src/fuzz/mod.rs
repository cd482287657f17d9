//! Fuzz targets: one for each parser of bytes that others wrote.
//!
//! Only in tests and behind the feature `fuzz`. `make test` gives each target its corpus and a
//! bounded number of changes of it; `make fuzz` runs them under libFuzzer, which looks for new ways
//! through the code (see `crates/gateway/fuzz`).

use crate::keeper;

#[cfg(test)]
mod mutate;
pub mod strict;
mod targets;
#[cfg(test)]
mod tests;

/// A parser and its oracle: panics at an input that shows a fault.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in `crates/gateway/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 10] = [
    ("request", targets::request),
    ("response", targets::response),
    ("chunked", targets::chunked),
    ("frames", targets::frames),
    ("values", targets::values),
    ("handoff", targets::handoff),
    ("keeper", keeper::fuzz),
    ("journal", targets::journal),
    ("link", targets::link),
    ("spec", targets::spec),
];
