//! The targets as tests, and the corpus that they begin with.

use std::fs;
use std::path::Path;

use super::TARGETS;

/// Changed inputs for each target; `SEGUE_FUZZ_RUNS` for more.
const RUNS: usize = 20_000;

/// Splitmix64: one seed, one history.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        // Ends of varints and of ranges go in more often than by chance.
        const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x0a, b'\r', b'\n'];
        match self.below(2) {
            0 => ODD[self.below(ODD.len())],
            _ => u8::try_from(self.below(256)).unwrap(),
        }
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.insert(at, self.byte()),
                1 if at < input.len() => input[at] = self.byte(),
                2 => input.truncate(at),
                3 => {
                    let end = (at + self.below(8)).min(input.len());
                    input.drain(at..end);
                }
                _ => {
                    let from = self.below(other.len() + 1);
                    input.splice(at..at, other[from..].iter().copied());
                }
            }
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn no_bytes_bring_a_reader_down() {
    let more = std::env::var("SEGUE_FUZZ_RUNS").ok();
    let runs = more.map_or(RUNS, |runs| runs.parse().unwrap());
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let mut chance = Chance(0x5e_90e);
        let changed = (0..runs).map(|_| {
            let mut input = corpus[chance.below(corpus.len())].clone();
            let other = &corpus[chance.below(corpus.len())];
            chance.mutate(&mut input, other);
            input
        });
        for input in corpus.iter().cloned().chain(changed) {
            let held = std::panic::catch_unwind(|| target(&input));
            assert!(held.is_ok(), "{name} fails for: {}", input.escape_ascii());
        }
    }
}
