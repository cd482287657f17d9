//! The gate: lets workers in by the manifest.
//!
//! - What is older than anything seen is refused; the highest version is on disk *before* it is acted
//!   on, so that a killed gate does not take an old manifest for a new one.
//! - A release that falls out of the manifest drains: its workers take no new call and keep those that
//!   they have. Whoever was let in once is known by its token, and whoever shows that very token is let
//!   in again to end its calls: also after it has ended, was taken back, or its signer is out.
//! - A manifest that has ended changes nothing for those who are in, for a grace; nobody new is let
//!   in. After the grace nobody takes new calls. No call is ever ended for it.
//!
//! It is one value without a lock; whoever shares it brings one. Nothing but
//! [`Gate::offer_manifest`], [`Gate::offer_keys`] and [`Gate::save`] waits for a disk; the last, which
//! is called often, can be done without the lock ([`Gate::saving`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::names::{AgentName, Environment, Label, ReleaseId, TokenId, WorkerId};
use segue_core::time::{Millis, Timestamp};

use crate::claims::{self, LEEWAY};
use crate::jws;
use crate::key::KeyId;
use crate::keyset::{KeySet, Role, Trusted};
use crate::manifest::{self, Manifest, ReleaseState, fingerprint};
use crate::member::{Accepted, Freshness, Member, Standing, Why, changes};
use crate::proof::Nonces;
use crate::reject::Reject;
use crate::store::{Disk, FORMAT, Kept, Known, Saving, Store};
use crate::token::{self, WorkerClaims};

/// How long an ended manifest goes on for those who are in, unless it is said otherwise: whoever
/// signs may be away for a day.
pub const GRACE: Millis = Millis::from_secs(86_400);

/// How long a token is known after it has ended: longer than any call.
pub const KNOWN_LASTS: Millis = Millis::from_secs(2 * 86_400);

/// Tokens that are known at once, 15 MB on disk. Each was signed by somebody who may.
pub const KNOWN_MAX: usize = 50_000;

/// Tokens that name one worker and are known at once: processes of it that are as old as the tokens
/// they began with, and read no newer one.
pub const KNOWN_OF_ONE_MAX: usize = 16;

/// What a gate is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it stands.
    pub env: Environment,
    /// How long an ended manifest goes on for those who are in.
    pub grace: Millis,
    /// Whether a token without a key is enough.
    pub bearers: bool,
    /// 32 random bytes, other ones each time: they seal what it asks workers to sign.
    pub secret: [u8; 32],
}

impl Settings {
    /// For workers that keep one token for as long as they run.
    pub fn new(env: Environment, secret: [u8; 32]) -> Self {
        Self {
            env,
            grace: GRACE,
            bearers: true,
            secret,
        }
    }
}

/// A manifest in force.
struct Held {
    manifest: Manifest,
    signed: String,
    signer: KeyId,
    fresh_until: Timestamp,
}

/// A token that is good, or was when it was shown first.
struct Shown {
    claims: WorkerClaims,
    signer: KeyId,
    /// SHA-256 of it.
    digest: String,
    /// Whether this very one was admitted before.
    is_known: bool,
}

/// Lets workers in.
pub struct Gate {
    settings: Settings,
    keys: Trusted,
    /// The highest version that was acted on.
    ver: u64,
    held: Option<Held>,
    known: BTreeMap<TokenId, Known>,
    nonces: Nonces,
    disk: Arc<Disk>,
    /// Grows with what is to be stored.
    generation: u64,
    /// Whether `known` has something that is not stored.
    unsaved: bool,
    complaint: Option<Reject>,
}

impl Gate {
    /// Opens with what was stored, or for the first time: then the first set of the chain is
    /// believed.
    ///
    /// A chain that does not follow what is stored keeps no gate closed: it goes on with what it had,
    /// and [`Gate::complaint`] says so.
    ///
    /// # Errors
    ///
    /// When the store cannot be read or written, or is of another environment: opening without a
    /// memory would let old manifests in. At first, when the chain does not hold.
    pub fn open(
        settings: Settings,
        chain: &str,
        store: Box<dyn Store>,
        now: Timestamp,
    ) -> Result<Self, Reject> {
        let disk = Disk::new(store);
        let kept = disk.load().map_err(Reject::Store)?;
        let keys = match &kept {
            Some(kept) => Trusted::again(&kept.keys)?,
            None => Trusted::first(chain, now)?,
        };
        if keys.set.env != settings.env {
            return Err(Reject::Environment {
                found: keys.set.env.to_string(),
                expected: settings.env.to_string(),
            });
        }
        let mut gate = Self {
            nonces: Nonces::new(&settings.secret),
            settings,
            keys,
            ver: 0,
            held: None,
            known: BTreeMap::new(),
            disk: Arc::new(disk),
            generation: 0,
            unsaved: false,
            complaint: None,
        };
        if let Some(kept) = kept {
            gate.ver = kept.ver;
            let known = kept.known.into_iter();
            gate.known = known.map(|known| (known.token.clone(), known)).collect();
            if let Some(signed) = kept.manifest {
                let (manifest, signer) = stored(&signed)?;
                gate.held = Some(Held {
                    manifest,
                    signed,
                    signer,
                    fresh_until: kept.fresh_until,
                });
            }
            gate.complaint = gate.offer_keys(chain, now).err();
        } else {
            let kept = gate.kept();
            gate.keep(kept)?;
        }
        Ok(gate)
    }

    /// Follows a chain of key sets; answers the number of the one in force.
    ///
    /// If the key that signed the manifest is out, the manifest ends now; its grace begins. If the
    /// new set says from which number manifests go on, they do.
    ///
    /// # Errors
    ///
    /// When one does not follow the one before. The one in force stays.
    pub fn offer_keys(&mut self, chain: &str, now: Timestamp) -> Result<u64, Reject> {
        let keys = self.keys.follow(chain, now)?;
        let number = keys.set.set;
        if number == self.keys.set.set {
            return Ok(number);
        }
        let (mut kept, mut until) = (self.kept(), None);
        kept.keys.clone_from(&keys.line);
        if let Some(held) = &self.held
            && keys.set.key(Role::Manifest, &held.signer).is_err()
        {
            kept.fresh_until = held.fresh_until.min(now - LEEWAY);
            kept.ver = keys.set.floor.unwrap_or(kept.ver);
            until = Some(kept.fresh_until);
        }
        let ver = kept.ver;
        self.keep(kept)?;
        self.unsaved = false;
        self.keys = keys;
        self.ver = ver;
        if let (Some(held), Some(until)) = (&mut self.held, until) {
            held.fresh_until = until;
        }
        Ok(number)
    }

    /// Takes a manifest, if it is newer than every one before. It is stored when this returns.
    ///
    /// # Errors
    ///
    /// When it is not believed. The one in force stays.
    pub fn offer_manifest(&mut self, signed: &str, now: Timestamp) -> Result<Accepted, Reject> {
        let signed = signed.trim_ascii();
        self.keys.lasting(now)?;
        let (manifest, signer) = manifest::believed(&self.keys.set, signed, now)?;
        let offered = manifest.ver;
        if offered < self.ver {
            let held = self.ver;
            return Err(Reject::Rollback { offered, held });
        }
        // The highest one, unless its signer is out: that tells no history to follow.
        let may_sign = |held: &&Held| self.keys.set.key(Role::Manifest, &held.signer).is_ok();
        let held = (self.held.as_ref()).filter(|held| held.manifest.ver == self.ver);
        let held = held.filter(may_sign);
        if let Some(held) = held.filter(|held| held.manifest.ver == offered) {
            if held.signed != signed {
                return Err(Reject::Equivocation(offered));
            }
            return Ok(Accepted {
                ver: offered,
                until: held.fresh_until,
                gap: false,
                changes: Vec::new(),
            });
        }
        let follows = held.is_some_and(|held| held.manifest.ver + 1 == offered);
        if let Some(held) = held.filter(|_| follows)
            && manifest.prev.as_deref() != Some(&fingerprint(&held.signed))
        {
            return Err(Reject::Fork(offered));
        }
        let until = manifest.exp.at();
        let kept = Kept {
            ver: offered,
            manifest: Some(signed.to_owned()),
            fresh_until: until,
            ..self.kept()
        };
        self.keep(kept)?;
        let accepted = Accepted {
            ver: offered,
            until,
            gap: self.held.is_some() && !follows,
            changes: changes(self.held.as_ref().map(|held| &held.manifest), &manifest),
        };
        self.unsaved = false;
        self.ver = offered;
        self.held = Some(Held {
            manifest,
            signed: signed.to_owned(),
            signer,
            fresh_until: until,
        });
        Ok(accepted)
    }

    /// Lets in a worker that shows a token and nothing else.
    ///
    /// # Errors
    ///
    /// When the token is not believed, its release is not admitted, or it needs a proof.
    pub fn admit(&mut self, token: &str, now: Timestamp) -> Result<Member, Reject> {
        let shown = self.shown(token, now)?;
        if shown.claims.cnf.is_some() {
            return Err(Reject::ProofMissing);
        }
        if !self.settings.bearers {
            return Err(Reject::Unbound);
        }
        self.let_in(shown, now)
    }

    /// What the next worker is to sign, of 16 random bytes.
    pub fn ask(&self, chance: [u8; 16], now: Timestamp) -> String {
        self.nonces.ask(chance, now)
    }

    /// Lets in a worker that shows a token and the proof that it is its own.
    ///
    /// # Errors
    ///
    /// As [`Gate::admit`]; and when the proof is of something else, or was shown before.
    pub fn admit_proven(
        &mut self,
        token: &str,
        proof: &str,
        now: Timestamp,
    ) -> Result<Member, Reject> {
        let shown = self.shown(token, now)?;
        let key = shown.claims.cnf.ok_or(Reject::Unbound)?.jwk;
        let env = &self.settings.env;
        self.nonces.take(env, token, proof, &key, now)?;
        self.let_in(shown, now)
    }

    /// What a member may do now. Manifests change and end.
    pub fn standing(&self, member: &Member, now: Timestamp) -> Standing {
        match member.state {
            // A member that came with an ended token stays what it is.
            Standing::Draining(Why::Expired) => member.state,
            _ => self.stands(
                (&member.agent, &member.version, member.digest),
                (&member.token, &member.signer, member.worker.as_ref()),
                now,
            ),
        }
    }

    /// Whether the manifest takes a worker back by its name, whichever token it has, if any.
    pub fn is_revoked(&self, worker: &WorkerId) -> bool {
        let revokes = |manifest: &Manifest| manifest.revokes_worker(worker);
        self.manifest().is_some_and(revokes)
    }

    /// What workers of a release may do of which somebody else knows that they are: whoever started
    /// them from those very files.
    pub fn release(
        &self,
        (agent, version, digest): (&AgentName, &Label, ReleaseId),
        now: Timestamp,
    ) -> Standing {
        let Some(manifest) = self.manifest() else {
            return Standing::Draining(Why::Stale);
        };
        match manifest.admits(agent, version, digest) {
            None => Standing::Draining(Why::FellOut),
            Some(release) if release.state == ReleaseState::Draining => {
                Standing::Draining(Why::Told)
            }
            Some(_) if self.freshness(now) == Freshness::Over => Standing::Draining(Why::Stale),
            Some(release) => Standing::Serving(release.state),
        }
    }

    /// What a worker may do that was let in by that token before, as somebody else remembers.
    pub fn stands(
        &self,
        release: (&AgentName, &Label, ReleaseId),
        (token, signer, worker): (&TokenId, &KeyId, Option<&WorkerId>),
        now: Timestamp,
    ) -> Standing {
        let revoked = self.manifest().and_then(|is| is.revokes(token, worker));
        if revoked.is_some() {
            return Standing::Draining(Why::Revoked);
        }
        if self.keys.set.key(Role::Worker, signer).is_err() {
            return Standing::Draining(Why::KeyOut);
        }
        self.release(release, now)
    }

    /// How fresh the manifest is.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        let Some(held) = &self.held else {
            return Freshness::Over;
        };
        let until = held.fresh_until + LEEWAY;
        let last = until + self.settings.grace;
        if now < until && self.keys.lasting(now).is_ok() {
            Freshness::Fresh { until }
        } else if now < last {
            Freshness::Grace { until: last }
        } else {
            Freshness::Over
        }
    }

    /// When time alone changes what members may do.
    pub fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        match self.freshness(now) {
            Freshness::Fresh { until } | Freshness::Grace { until } => Some(until),
            Freshness::Over => None,
        }
    }

    /// The manifest in force.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.held.as_ref().map(|held| &held.manifest)
    }

    /// What was wrong with the chain that it was opened with, if it goes on with an older one.
    pub fn complaint(&self) -> Option<&Reject> {
        self.complaint.as_ref()
    }

    /// The key set in force.
    pub fn keys(&self) -> &KeySet {
        &self.keys.set
    }

    /// Stores who was let in since the last time. Call it now and then: what it has not stored when
    /// it is killed counts as new, which matters only while the manifest is not fresh.
    ///
    /// # Errors
    ///
    /// When it cannot be stored; it is tried again at the next call.
    pub fn save(&mut self, now: Timestamp) -> Result<(), Reject> {
        if !self.unsaved {
            return Ok(());
        }
        let saved = self.saving(now).map_or(Ok(()), |saving| saving.write());
        self.unsaved = saved.is_err();
        saved.map_err(Reject::Store)
    }

    /// What [`Gate::save`] would store, for whoever has the gate under a lock that others wait for. If
    /// it could not be written, say so by [`Gate::unsaved`].
    pub fn saving(&mut self, now: Timestamp) -> Option<Saving> {
        if !std::mem::take(&mut self.unsaved) {
            return None;
        }
        self.known.retain(|_, known| known.until > now);
        let kept = self.kept();
        Some(self.numbered(kept))
    }

    /// What was to be stored is not.
    pub fn unsaved(&mut self) {
        self.unsaved = true;
    }

    fn numbered(&mut self, kept: Kept) -> Saving {
        self.generation += 1;
        Saving {
            kept,
            disk: Arc::clone(&self.disk),
            generation: self.generation,
        }
    }

    /// Stores it before it is acted on.
    fn keep(&mut self, kept: Kept) -> Result<(), Reject> {
        self.numbered(kept).write().map_err(Reject::Store)
    }

    /// A token that is believed, or was, when this very one was shown.
    fn shown(&self, token: &str, now: Timestamp) -> Result<Shown, Reject> {
        let digest = fingerprint(token);
        // `by_id`: also one of which no more is known, for a token that is signed as it should be.
        let is_known = |claims: &WorkerClaims, by_id: bool| {
            let known = self.known.get(&claims.jti);
            let known = known.filter(|known| known.until > now);
            known.is_some_and(|is| is.digest.as_ref().map_or(by_id, |is| *is == digest))
        };
        let (claims, signer, is_known) = match token::believed(&self.keys.set, token, now) {
            Ok((claims, signer)) => {
                let is_known = is_known(&claims, true);
                (claims, signer, is_known)
            }
            Err(reject) => match token::believed_before(token) {
                Ok((claims, signer)) if is_known(&claims, false) => (claims, signer, true),
                _ => return Err(reject),
            },
        };
        Ok(Shown {
            claims,
            signer,
            digest,
            is_known,
        })
    }

    fn let_in(&mut self, shown: Shown, now: Timestamp) -> Result<Member, Reject> {
        let Shown {
            claims,
            signer,
            digest,
            is_known,
        } = shown;
        let manifest = self.manifest().ok_or(Reject::NoManifest)?;
        if let Some(revoked) = manifest.revokes(&claims.jti, claims.sub.as_ref())
            && !is_known
        {
            return Err(Reject::Revoked(match revoked {
                manifest::Revoked::Jti(id) => format!("token {id}"),
                manifest::Revoked::Worker(id) => format!("worker {id}"),
            }));
        }
        let mut state = self.stands(
            (&claims.agent, &claims.version, claims.digest),
            (&claims.jti, &signer, claims.sub.as_ref()),
            now,
        );
        let expired = claims::lasting(claims.exp, now);
        match (is_known, expired, state) {
            (false, Err(expired), _) => return Err(expired),
            (true, Err(_), _) => state = Standing::Draining(Why::Expired),
            (false, Ok(()), Standing::Draining(Why::FellOut)) => {
                return Err(Reject::NotAdmitted {
                    agent: claims.agent,
                    version: claims.version,
                    digest: claims.digest,
                });
            }
            (false, Ok(()), _) => {
                self.keys.lasting(now)?;
                if !matches!(self.freshness(now), Freshness::Fresh { .. }) {
                    let ended = self.held.as_ref().map_or(now, |held| held.fresh_until);
                    let ago = now.since(ended);
                    return Err(Reject::Frozen { ago });
                }
            }
            (true, Ok(()), _) => {}
        }
        let known = self.known.get(&claims.jti);
        if !is_known || known.is_some_and(|known| known.digest.is_none()) {
            self.remember(Known {
                token: claims.jti.clone(),
                until: claims.exp.at() + KNOWN_LASTS,
                digest: Some(digest),
                of: whose(&claims),
            });
        }
        Ok(Member {
            agent: claims.agent,
            version: claims.version,
            digest: claims.digest,
            worker: claims.sub,
            token: claims.jti,
            signer,
            expires: claims.exp.at(),
            state,
        })
    }

    /// Full, it forgets the one that would be forgotten first: of its own worker, if there are many.
    fn remember(&mut self, known: Known) {
        if known.of.is_some() && !self.known.contains_key(&known.token) {
            let same = self.known.values().filter(|is| is.of == known.of);
            let mut same: Vec<(Timestamp, TokenId)> =
                same.map(|is| (is.until, is.token.clone())).collect();
            same.sort_unstable();
            let surplus = (same.len() + 1).saturating_sub(KNOWN_OF_ONE_MAX);
            for (_, token) in same.drain(..surplus) {
                self.known.remove(&token);
            }
        }
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&known.token) {
            let first = self.known.values().min_by_key(|known| known.until);
            if let Some(first) = first.map(|known| known.token.clone()) {
                self.known.remove(&first);
            }
        }
        self.known.insert(known.token.clone(), known);
        self.unsaved = true;
    }

    fn kept(&self) -> Kept {
        Kept {
            format: FORMAT,
            env: self.settings.env.clone(),
            keys: self.keys.line.clone(),
            ver: self.ver,
            manifest: self.held.as_ref().map(|held| held.signed.clone()),
            fresh_until: self
                .held
                .as_ref()
                .map_or(Timestamp(0), |held| held.fresh_until),
            known: self.known.values().cloned().collect(),
        }
    }
}

/// The worker that a token names. A key may be that of a whole fleet.
fn whose(claims: &WorkerClaims) -> Option<String> {
    let worker = claims.sub.as_ref()?;
    Some(format!("{} {worker}", claims.agent))
}

/// One that was believed before it was stored, maybe by a key that is out now.
fn stored(signed: &str) -> Result<(Manifest, KeyId), Reject> {
    let read = jws::read(manifest::KIND, signed)?;
    Ok((read.unverified()?, read.kid))
}
