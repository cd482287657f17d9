//! The targets as tests, and the corpus that they begin with.

#![expect(
    clippy::disallowed_methods,
    reason = "the corpus is in files, and how much is tried may be said from outside"
)]

use std::fs;
use std::path::PathBuf;

use super::{TARGETS, Target, good_chain, good_claims, good_manifest, key, sign_worker, token_typ};

/// Changed inputs for each target; `SEGUE_FUZZ_RUNS` for more.
const RUNS: usize = 1_500;

/// What makes readers disagree, and therefore goes in more often than by chance.
const WORDS: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    ".",
    "=",
    "\\u0000",
    "\\ud800",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"alg\":\"none\",",
    "\"aud\":\"staging\",",
    "\"exp\":9,",
    "\"ver\":1,",
    "\"ver\":9007199254740991",
    "\u{feff}",
    "\n",
    "A",
    "AA",
    "AAAA",
    "e30",
    "none",
    "HS256",
];

/// The good one of each target: its corpus has it, and so does the seed of libFuzzer.
fn good(name: &str) -> String {
    let json = |value: serde_json::Result<String>| value.unwrap();
    match name {
        "token" => sign_worker(&good_claims(), &key(3)),
        "header" => {
            let kid = key(3).kid();
            format!(r#"{{"alg":"EdDSA","typ":"{}","kid":"{kid}"}}"#, token_typ())
        }
        "claims" => json(serde_json::to_string(&good_claims())),
        "manifest" => {
            let mut next = good_manifest();
            let first = super::sign_manifest(&next, &key(2));
            (next.ver, next.prev) = (2, Some(crate::manifest::fingerprint(&first)));
            json(serde_json::to_string(&next))
        }
        "keys" => good_chain(),
        other => panic!("{other} has no good input"),
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let first = folder.join("good");
    let good = good(name);
    if std::env::var("SEGUE_REGENERATE").is_ok() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&first, &good).unwrap();
    }
    let read = fs::read_to_string(&first).unwrap();
    assert_eq!(read, good, "{name}: SEGUE_REGENERATE=1 writes it anew");
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// xorshift64*: a few bits of chance, and a seed that replays them.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % bound
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(24)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => bytes.truncate(at),
                _ => {
                    let word = WORDS[self.below(WORDS.len())];
                    bytes.splice(at..at, word.bytes());
                }
            }
        }
    }
}

/// Says which input it was: a panic alone would not.
fn give(name: &str, target: Target, input: &[u8]) {
    let held = std::panic::catch_unwind(|| target(input));
    assert!(held.is_ok(), "{name} fails for: {}", input.escape_ascii());
}

fn check(name: &str) {
    let mut targets = TARGETS.into_iter();
    let (_, target) = targets.find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    for input in &corpus {
        give(name, target, input);
    }
    let runs = std::env::var("SEGUE_FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let mut chance = Chance(0x5e_90e1);
    for _ in 0..runs {
        let mut input = corpus[chance.below(corpus.len())].clone();
        chance.change(&mut input);
        give(name, target, &input);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_tried() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets!(token header claims manifest keys);

/// The oracles see what they should: the good ones are let in.
#[test]
fn the_good_ones_are_let_in() {
    let mut gate = super::gate();
    assert!(gate.admit(&good("token"), super::NOW).is_ok());
    let parts = super::signed(good("header").as_bytes(), good("claims").as_bytes(), 3);
    assert_eq!(parts, good("token"));
    let manifest: crate::Manifest = serde_json::from_str(&good("manifest")).unwrap();
    let next = super::sign_manifest(&manifest, &key(2));
    assert_eq!(gate.offer_manifest(&next, super::NOW).unwrap().ver, 2);
}
