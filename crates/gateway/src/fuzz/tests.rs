//! The targets as tests.

use std::fs;
use std::path::Path;

use super::mutate::Chance;
use super::strict::{self, Next};
use super::{TARGETS, Target, targets};

/// Changed inputs for each target; `SEGUE_FUZZ_RUNS` for more.
const RUNS: usize = 20_000;

/// Changed heads, which must not be smuggled through.
const HEADS: usize = 120_000;

fn runs(usual: usize) -> usize {
    let more = std::env::var("SEGUE_FUZZ_RUNS").ok();
    more.map_or(usual, |runs| runs.parse().unwrap())
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|_| panic!("{} is not there", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Says which input it was: a panic alone would not.
fn give(name: &str, target: Target, input: &[u8]) {
    let held = std::panic::catch_unwind(|| target(input));
    assert!(held.is_ok(), "{name} fails for: {}", input.escape_ascii());
}

fn check(name: &str) {
    let (_, target) = TARGETS
        .into_iter()
        .find(|(known, _)| *known == name)
        .unwrap();
    let corpus = corpus(name);
    for input in &corpus {
        give(name, target, input);
    }
    let mut chance = Chance::new(0x5e_90e);
    for _ in 0..runs(RUNS) {
        let mut input = corpus[chance.below(corpus.len())].clone();
        let other = &corpus[chance.below(corpus.len())];
        chance.mutate(&mut input, other);
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
        fn every_target_is_a_test() {
            let known = TARGETS.map(|(name, _)| name);
            assert_eq!(known, [$(stringify!($name)),*]);
        }
    };
}

targets!(request response chunked frames values handoff keeper journal link spec);

/// Valid heads with random changes: whatever is taken reads as the same single request to a reader
/// that shares nothing with ours. Enough of them are taken, and enough refused, to mean something.
#[test]
fn changed_heads_are_refused_or_read_alike() {
    let corpus = corpus("request");
    let (mut taken, mut refused, mut chance) = (0, 0, Chance::new(7));
    for _ in 0..runs(HEADS) {
        let mut input = corpus[chance.below(corpus.len())].clone();
        chance.mutate(&mut input, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        give("request", targets::request, &input);
        match targets::relayed(&input) {
            Some(_) => taken += 1,
            None => refused += 1,
        }
    }
    assert!(
        taken > 1_000 && refused > 1_000,
        "{taken} taken, {refused} refused"
    );
}

/// Changes are made to something that is understood, and not to rubbish.
#[test]
fn the_corpus_is_understood() {
    let one = |name: &str, file: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        fs::read(folder.join(name).join(file)).unwrap()
    };
    for input in corpus("request") {
        assert!(
            targets::relayed(&input).is_some(),
            "{}",
            input.escape_ascii()
        );
    }
    let call = one("handoff", "call");
    serde_json::from_slice::<crate::relay::MovedCall>(&call).unwrap();
    for input in corpus("link") {
        serde_json::from_slice::<segue_core::link::ToGateway>(&input).unwrap();
    }
    for (file, whole) in [("life", 4), ("left", 3), ("torn", 2)] {
        let lines = one("journal", file);
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        let read =
            lines.filter_map(|line| serde_json::from_slice::<crate::journal::Line>(line).ok());
        assert_eq!(read.count(), whole, "{file}");
    }
    assert!(segue_core::spec::parse("x", str::from_utf8(&one("spec", "small")).unwrap()).is_ok());
}

/// The oracle bites: a reader that takes what ours refuses is found out.
#[test]
fn a_lax_reader_would_be_noticed() {
    let smuggled = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(targets::relayed(smuggled).is_none());
    assert_eq!(strict::next(smuggled), Next::Bad("framing"));
    // What a proxy that believes the length and forgets it would pass on.
    let lax = String::from_utf8_lossy(smuggled).replace("Content-Length: 4\r\n", "");
    let Next::Request(first, length) = strict::next(lax.as_bytes()) else {
        panic!("a request");
    };
    assert!(
        first.body.is_empty() && length < lax.len(),
        "the second one is found"
    );
    let second = strict::next(&lax.as_bytes()[length..]);
    assert!(matches!(second, Next::Request(second, _) if second.target == b"/smuggled"));
}

/// Neither stack nor time is used up: the run has a limit of time for each test.
#[test]
fn long_runs_of_one_byte_come_to_an_end() {
    for (_, target) in TARGETS {
        for filler in [b'0', b'a', b' ', b'{', b'[', b'\n', 0xff] {
            target(&vec![filler; 256 * 1024]);
        }
    }
}
