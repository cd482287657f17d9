//! Reads who may take calls.

use super::keys::MEMBERSHIP;
use super::reader::{Item, Section};
use super::values::word;
use crate::names::{BadName, Environment};

const HINT: &str = "see `segue membership --help`";

/// Who may take calls, by signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipSpec {
    /// Where this is, as it is signed.
    pub environment: Environment,
    /// The file of key sets.
    pub keys: String,
    /// The file of the manifest.
    pub manifest: String,
    /// What workers need.
    pub workers: WorkersNeed,
}

/// What a worker needs to take new calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkersNeed {
    /// That the manifest admits its release: Segue itself started it, and knows from what.
    #[default]
    Attested,
    /// That, and a token of its own with a proof of its key.
    Registered,
}

/// The membership, if there is one.
pub(super) fn read_membership(top: &Section<'_>) -> Option<MembershipSpec> {
    let section = top.item("membership")?.section(&MEMBERSHIP)?;
    let environment = section.need("environment", HINT).and_then(environment);
    let file = |key| Some(section.need(key, HINT)?.filled()?.to_owned());
    let (keys, manifest) = (file("keys"), file("manifest"));
    let words = [
        ("attested", WorkersNeed::Attested),
        ("registered", WorkersNeed::Registered),
    ];
    let workers = section.read("workers", WorkersNeed::Attested, |item| {
        word(item, &words, "these are known")
    });
    Some(MembershipSpec {
        environment: environment?,
        keys: keys?,
        manifest: manifest?,
        workers,
    })
}

/// An environment, as it is signed.
pub(super) fn environment(item: Item<'_>) -> Option<Environment> {
    let name = item.filled()?.parse();
    name.map_err(|bad: BadName| item.fault::<()>(bad.to_string(), HINT))
        .ok()
}
