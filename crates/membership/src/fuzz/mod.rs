//! Fuzz targets: one for each parser of bytes that others wrote.
//!
//! Only in tests and behind the feature `fuzz`. `make test` gives each target its corpus and a
//! bounded number of changes of it; `make fuzz` runs them under libFuzzer, which looks for new ways
//! through the code (see `crates/membership/fuzz`).
