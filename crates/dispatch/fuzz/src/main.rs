//! The fuzz targets under libFuzzer. Which one: `SEGUE_FUZZ_TARGET`.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use segue_dispatch::fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("SEGUE_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let known = TARGETS.map(|(known, _)| known).join(", ");
    let (_, target) = target.unwrap_or_else(|| panic!("SEGUE_FUZZ_TARGET is one of {known}"));
    *target
}

fuzz_target!(|bytes: &[u8]| CHOSEN.get_or_init(chosen)(bytes));
