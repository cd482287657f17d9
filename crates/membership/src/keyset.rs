//! Key sets: who may sign manifests and worker tokens, and who may say so.
//!
//! Set N+1 takes the place of set N when enough root keys of N *and* enough of its own have signed
//! it. So whoever steals a root key below the threshold changes nothing, and a gate that slept
//! through several sets follows them one by one. The first set a gate meets is believed: it comes
//! with the configuration.
//!
//! A signed set is one line: JWS in general JSON form, each signature of which any JWT library
//! verifies. A file of such lines, oldest first, is a *chain*.

use std::collections::BTreeSet;

use segue_core::names::Environment;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::claims::{self, ISSUER_BYTES_MAX, Seconds};
use crate::json;
use crate::jws::{self, Kind, Unverified};
use crate::key::{KeyId, PublicKey, SigningKey};
use crate::manifest::VERSION_MAX;
use crate::reject::Reject;

/// How one is signed. The length is that of a line.
const KIND: Kind = Kind {
    typ: "membership-keys+jwt",
    bytes_max: 64 * 1_024,
};

/// Keys in one set, and signatures on it: some people, some signers, and those before them.
pub const KEYS_MAX: usize = 64;

/// Sets in one chain: a rotation a week for twenty years.
pub const CHAIN_MAX: usize = 1_024;

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Key sets.
    Root,
    /// Manifests.
    Manifest,
    /// Worker tokens.
    Worker,
}

/// Who may sign what, from its number on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// The issuer of everything that is signed by it.
    pub iss: String,
    /// Where it holds.
    pub env: Environment,
    /// Its number, one more than that of the set before.
    pub set: u64,
    /// When it was made.
    pub iat: Seconds,
    /// When it ends, if it does. Then nobody new is admitted until there is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<Seconds>,
    /// The keys: a JWK set.
    pub keys: Vec<PublicKey>,
    /// Which of them sign key sets.
    pub root: Vec<KeyId>,
    /// How many of those must.
    pub threshold: usize,
    /// Which of them sign manifests.
    pub manifest: Vec<KeyId>,
    /// Which of them sign worker tokens.
    pub worker: Vec<KeyId>,
    /// From which number of manifests counting goes on, once the key that signed the highest one is
    /// out. Whoever stole it may have used up the numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    payload: String,
    signatures: Vec<OneSignature>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneSignature {
    protected: String,
    signature: String,
}

impl KeySet {
    /// Those who may sign that.
    pub fn of(&self, role: Role) -> &[KeyId] {
        match role {
            Role::Root => &self.root,
            Role::Manifest => &self.manifest,
            Role::Worker => &self.worker,
        }
    }

    /// The key of that name, if it may sign that.
    pub(crate) fn key(&self, role: Role, kid: &KeyId) -> Result<&PublicKey, Reject> {
        let may = self.of(role).contains(kid);
        let key = self.keys.iter().find(|key| may && key.kid() == *kid);
        key.ok_or_else(|| Reject::unknown_key(kid))
    }

    /// Signs it, with each of the keys.
    pub fn sign(&self, keys: &[&SigningKey]) -> String {
        let signed = Signed {
            payload: jws::encoded(self),
            signatures: Vec::new(),
        };
        signed.and(keys)
    }

    /// Refuses what no root may say.
    fn check(&self) -> Result<(), Reject> {
        let known: BTreeSet<KeyId> = self.keys.iter().map(PublicKey::kid).collect();
        let mut named = self.root.iter().chain(&self.manifest).chain(&self.worker);
        let why = if self.keys.len() > KEYS_MAX || known.len() != self.keys.len() {
            "it has too many keys, or one twice"
        } else if !(1..=VERSION_MAX).contains(&self.set)
            || !(1..=VERSION_MAX).contains(&self.floor.unwrap_or(1))
        {
            "its number is not from 1 to 2^53 - 1"
        } else if self.iss.is_empty() || self.iss.len() > ISSUER_BYTES_MAX {
            "its issuer has no name, or one that is too long"
        } else if !named.all(|kid| known.contains(kid)) {
            "it names a key that it does not have"
        } else if [&self.root, &self.manifest, &self.worker]
            .iter()
            .any(|of| has_twins(of))
        {
            "it names a key twice"
        } else if self.threshold == 0 || self.threshold > self.root.len() {
            "its threshold is not between one and the number of its root keys"
        } else {
            return Ok(());
        };
        Err(Reject::malformed(why))
    }
}

fn has_twins(of: &[KeyId]) -> bool {
    of.iter().collect::<BTreeSet<_>>().len() != of.len()
}

impl Signed {
    fn read(line: &str) -> Result<Self, Reject> {
        let (bytes, bytes_max) = (line.len(), KIND.bytes_max);
        if bytes > bytes_max {
            return Err(Reject::Oversized { bytes, bytes_max });
        }
        let signed: Self = json::read(line.as_bytes())?;
        if signed.signatures.len() > KEYS_MAX {
            return Err(Reject::malformed("it has too many signatures"));
        }
        Ok(signed)
    }

    fn each(&self) -> impl Iterator<Item = Result<Unverified, Reject>> {
        let read = |one: &OneSignature| {
            Unverified::new(KIND, &one.protected, &self.payload, &one.signature)
        };
        self.signatures.iter().map(read)
    }

    fn set(&self) -> Result<KeySet, Reject> {
        let set: KeySet = jws::payload(&self.payload)?;
        set.check()?;
        Ok(set)
    }

    /// Refuses unless enough root keys of `by` have signed this.
    fn agreed(&self, by: &KeySet, whose: &'static str) -> Result<(), Reject> {
        let mut signers = BTreeSet::new();
        for read in self.each() {
            let read = read?;
            // Others sign as well: those of the set before, or after.
            if let Ok(key) = by.key(Role::Root, &read.kid) {
                read.verify(key)?;
                signers.insert(read.kid);
            }
        }
        let (have, need) = (signers.len(), by.threshold);
        if have < need {
            return Err(Reject::Threshold { whose, have, need });
        }
        Ok(())
    }

    fn and(mut self, keys: &[&SigningKey]) -> String {
        for key in keys {
            let protected = jws::header(KIND, key);
            let signature = jws::signature(&protected, &self.payload, key);
            self.signatures.retain(|one| one.protected != protected);
            self.signatures.push(OneSignature {
                protected,
                signature,
            });
        }
        serde_json::to_string(&self).expect("signatures always serialise")
    }
}

/// Adds signatures to a signed set.
///
/// # Errors
///
/// When the line is none.
pub fn cosign(line: &str, keys: &[&SigningKey]) -> Result<String, Reject> {
    Ok(Signed::read(line)?.and(keys))
}

/// What a line says, without believing it.
///
/// # Errors
///
/// When it cannot be read.
pub fn look(line: &str) -> Result<(KeySet, Vec<KeyId>), Reject> {
    let signed = Signed::read(line)?;
    let signers = signed.each().map(|read| Ok(read?.kid));
    let signers = signers.collect::<Result<_, Reject>>()?;
    Ok((signed.set()?, signers))
}

/// The key set in force, and the line that it was signed as.
#[derive(Debug, Clone)]
pub(crate) struct Trusted {
    pub(crate) set: KeySet,
    pub(crate) line: String,
}

impl Trusted {
    /// Reads what was trusted before.
    pub(crate) fn again(line: &str) -> Result<Self, Reject> {
        let signed = Signed::read(line)?;
        let (set, line) = (signed.set()?, line.to_owned());
        signed.agreed(&set, "new")?;
        Ok(Self { set, line })
    }

    /// Follows a chain as far as it goes; the same one again when it says nothing new.
    pub(crate) fn follow(&self, chain: &str, now: Timestamp) -> Result<Self, Reject> {
        let mut held = self.clone();
        for line in lines(chain)? {
            let signed = Signed::read(line)?;
            let set = signed.set()?;
            if set.set < held.set.set {
                continue;
            }
            claims::ours((&set.iss, &set.env), (&held.set.iss, &held.set.env))?;
            if set.set == held.set.set {
                // More signatures on it do not make it another one.
                if set != held.set {
                    return Err(Reject::Equivocation(set.set));
                }
                continue;
            }
            if set.set != held.set.set + 1 {
                let (offered, held) = (set.set, held.set.set);
                return Err(Reject::KeySetGap { offered, held });
            }
            signed.agreed(&held.set, "old")?;
            signed.agreed(&set, "new")?;
            claims::made(set.iat, now)?;
            let line = line.to_owned();
            held = Self { set, line };
        }
        let newest = lines(chain)?
            .last()
            .map(|line| Ok(Signed::read(line)?.set()?.set));
        match newest.transpose()? {
            Some(offered) if offered < held.set.set => Err(Reject::Rollback {
                offered,
                held: held.set.set,
            }),
            _ => Ok(held),
        }
    }

    /// Believes the first set of a chain, and follows the rest.
    pub(crate) fn first(chain: &str, now: Timestamp) -> Result<Self, Reject> {
        let first = lines(chain)?.next();
        let first = first.ok_or_else(|| Reject::malformed("there is no key set in it"))?;
        Self::again(first)?.follow(chain, now)
    }

    /// Whether it may still let somebody new in.
    pub(crate) fn lasting(&self, now: Timestamp) -> Result<(), Reject> {
        match self.set.exp.map_or(Ok(()), |exp| claims::lasting(exp, now)) {
            Err(Reject::Expired { ago }) => Err(Reject::KeysEnded { ago }),
            lasting => lasting,
        }
    }
}

/// The set in force at the end of a chain, all of which holds.
///
/// # Errors
///
/// When one of its sets does not follow the one before.
pub fn newest(chain: &str, now: Timestamp) -> Result<KeySet, Reject> {
    Ok(Trusted::first(chain, now)?.set)
}

fn lines(chain: &str) -> Result<impl DoubleEndedIterator<Item = &str>, Reject> {
    let (bytes, bytes_max) = (chain.len(), CHAIN_MAX * KIND.bytes_max);
    let lines = || chain.lines().filter(|line| !line.trim().is_empty());
    if bytes > bytes_max || lines().count() > CHAIN_MAX {
        return Err(Reject::Oversized { bytes, bytes_max });
    }
    Ok(lines())
}
