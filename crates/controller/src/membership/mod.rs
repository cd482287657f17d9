//! Which workers may take calls, by signature: the gate, the files that it is told by, and who has
//! registered.
//!
//! What it says of a worker is a level. The driver compares it with what was decided, so that what
//! changed is written down before the table says it. With the controller away gateways go on by the
//! table that they have.

mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use segue_core::names::{AgentName, Label, ReleaseId, WorkerId};
use segue_core::release::Release;
use segue_core::rollout::Badge;
use segue_core::spec::{MembershipSpec, WorkersNeed};
use segue_core::time::Timestamp;
use segue_membership::file::FileStore;
use segue_membership::{Gate, KeyId, Member, Reject, Settings, Standing, Why};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock;
use crate::secret::random;
use crate::state::StateDir;

use self::told::Told;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is stored who has registered. A controller that is killed before knows by its journal
/// whom it let in.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Workers that are registered at once: ten times what a large agent runs.
const REGISTERED_MAX: usize = 10_000;

/// Why a worker is barred that has shown nothing.
const UNREGISTERED: &str = "unregistered";

/// Why a worker is refused that shows what is another's.
const CONTRADICTION: &str = "contradiction";

/// What a controller is told of it.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// What the configuration says.
    pub spec: MembershipSpec,
    /// Agents whose workers show their tokens elsewhere.
    pub elsewhere: BTreeSet<AgentName>,
}

/// Why the controller does not start: it would let anybody take calls, or nobody.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in them.
    #[error("the key sets are refused")]
    Refused(#[source] Reject),
}

/// How a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Why it may take no new call, if it may not.
    pub(crate) barred: Option<&'static str>,
}

/// Why a registration is refused.
#[derive(Debug)]
pub(crate) enum NotRegistered {
    /// There is no `[membership]`.
    NotAsked,
    /// A proof is asked for, which answers this.
    Prove(String),
    /// It is not believed, or not this worker's.
    Refused {
        reason: &'static str,
        message: String,
    },
    /// No random numbers.
    Chance(io::Error),
}

/// The membership of a controller; by default nobody needs any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Membership(Option<Arc<Shared>>);

struct Shared {
    config: MembershipConfig,
    keys: PathBuf,
    manifest: PathBuf,
    gate: Mutex<Gate>,
    registered: Mutex<BTreeMap<(AgentName, WorkerId), Member>>,
    /// What was read last of each file and how it went.
    read: Mutex<[Read; 2]>,
    /// When it was stored last who has registered.
    saved: Mutex<Option<Instant>>,
    told: Mutex<Told>,
    bell: Arc<Notify>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Membership").field(&self.config).finish()
    }
}

#[derive(Debug, Default)]
struct Read {
    /// The text that is in force.
    taken: String,
    /// Why another one is not, as it was told.
    refused: Option<String>,
}

impl Membership {
    /// Opens the gate. It rings whenever something may have changed.
    pub(crate) fn open(
        config: Option<MembershipConfig>,
        folder: &Path,
        state: &StateDir,
        bell: Arc<Notify>,
    ) -> Result<Self, OpenError> {
        let Some(config) = config else {
            return Ok(Self(None));
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let kept = state.membership();
        fs::create_dir_all(&kept).map_err(failed(&kept))?;
        let kept = kept.join("gate.json");
        let keys = folder.join(&config.spec.keys);
        let manifest = folder.join(&config.spec.manifest);
        // Later starts go on with what was kept, whatever has become of the file.
        let chain = match fs::read_to_string(&keys) {
            Err(error) if !kept.exists() => return Err(failed(&keys)(error)),
            read => read.unwrap_or_default(),
        };
        let secret = random().map_err(failed(Path::new("/dev/urandom")))?;
        let settings = Settings::new(config.spec.environment.clone(), secret);
        let store = Box::new(FileStore::new(kept));
        let gate = Gate::open(settings, &chain, store, clock::now());
        let gate = gate.map_err(OpenError::Refused)?;
        let opened = Self(Some(Arc::new(Shared {
            config,
            keys,
            manifest,
            gate: Mutex::new(gate),
            registered: Mutex::default(),
            read: Mutex::default(),
            saved: Mutex::default(),
            told: Mutex::default(),
            bell,
        })));
        opened.look(clock::now());
        Ok(opened)
    }

    /// Looks at the files now and then, for as long as it is polled.
    pub(crate) async fn watch(self) {
        loop {
            sleep(LOOK_EVERY).await;
            let again = self.clone();
            let looked = tokio::task::spawn_blocking(move || again.look(clock::now()));
            if let Err(error) = looked.await {
                tracing::error!(%error, "the manifest could not be looked at");
            }
        }
    }

    /// Takes what is new in the files. What is refused is told once, and offered again: its key may
    /// come later, a clock may be set, a disk may have room again.
    fn look(&self, now: Timestamp) {
        let Some(shared) = &self.0 else {
            return;
        };
        let mut read = lock(&shared.read);
        let [keys, manifest] = &mut *read;
        let mut changed = shared.offer(keys, "keys", &shared.keys, now);
        changed |= shared.offer(manifest, "manifest", &shared.manifest, now);
        shared.save(now);
        if changed {
            shared.bell.notify_one();
        }
    }

    /// How a worker stands: by what it showed, and why it may take no new call, if it may not.
    pub(crate) fn standing(
        &self,
        agent: &AgentName,
        worker: &WorkerId,
        (release, badge): (&Release, Option<&Badge>),
        now: Timestamp,
    ) -> (Option<Badge>, Option<String>) {
        let Some(shared) = &self.0 else {
            return (None, None);
        };
        let gate = lock(&shared.gate);
        let registered = lock(&shared.registered);
        let member = registered.get(&(agent.clone(), worker.clone()));
        let is = (agent, &release.label, release.id);
        let (shows, barred) = shared.judge(&gate, (worker, member), (is, badge), now);
        (shows, barred.map(str::to_owned))
    }

    /// Registers a worker, and answers why it may take no new call, if it may not. `release` is what it
    /// runs, if Segue started it; `is_in`: it is known by the log, and takes calls.
    pub(crate) fn register(
        &self,
        (agent, worker): (&AgentName, &WorkerId),
        (release, is_in): (Option<(&Label, ReleaseId)>, bool),
        (token, proof): (&str, Option<&str>),
        now: Timestamp,
    ) -> Result<Option<&'static str>, NotRegistered> {
        let shared = self.0.as_ref().ok_or(NotRegistered::NotAsked)?;
        let mut gate = lock(&shared.gate);
        let member = match proof {
            Some(proof) => gate.admit_proven(token, proof, now),
            None => gate.admit(token, now),
        };
        let member = match member {
            Ok(_) if proof.is_none() && shared.registers(agent) => Err(Reject::Unbound),
            Err(Reject::ProofMissing) => {
                let chance = random().map_err(NotRegistered::Chance)?;
                return Err(NotRegistered::Prove(gate.ask(chance, now)));
            }
            member => member,
        };
        let refused = |reason, message: String| {
            lock(&shared.told).rejected(agent, worker, (reason, &message), now);
            shared.bell.notify_one();
            NotRegistered::Refused { reason, message }
        };
        let member = member.map_err(|reject| refused(reject.word(), reject.to_string()))?;
        let is_other = |label: &Label, id| (&member.version, member.digest) != (label, id);
        let whose = if member.agent != *agent {
            Some(format!("the token is of agent {}", member.agent))
        } else if member.worker.as_ref().is_some_and(|is| is != worker) {
            Some("the token names another worker".to_owned())
        } else if release.is_some_and(|(label, id)| is_other(label, id)) {
            Some(format!("the token is of release {}", member.version))
        } else {
            None
        };
        if let Some(message) = whose {
            return Err(refused(CONTRADICTION, message));
        }
        let mut registered = lock(&shared.registered);
        let of = (agent.clone(), worker.clone());
        let says = |member| shared.says(&gate, (agent, worker, release), member, now);
        let now_barred = says(&member);
        if now_barred.is_some() {
            // Another process of it shows what has ended since, or somebody else does who has its API
            // token: whoever is in stays in by what was shown before.
            match registered.get(&of).map(says) {
                Some(None) => return Ok(None),
                None if is_in => return Ok(None),
                _ => {}
            }
        }
        // Whoever is forgotten is known by the log, or shows its token again. The one whose token ends
        // first has most likely gone long ago: of those that others run nobody says so.
        if registered.len() >= REGISTERED_MAX && !registered.contains_key(&of) {
            let first = registered.iter().min_by_key(|(_, is)| is.expires);
            if let Some(first) = first.map(|(of, _)| of.clone()) {
                registered.remove(&first);
            }
        }
        registered.insert(of, member);
        shared.bell.notify_one();
        Ok(now_barred)
    }

    /// Why a worker that has registered here may take no new call, if it may not. `release` as in
    /// [`Self::register`].
    pub(crate) fn registered(
        &self,
        agent: &AgentName,
        worker: &WorkerId,
        release: Option<(&Label, ReleaseId)>,
        now: Timestamp,
    ) -> Option<Judged> {
        let shared = self.0.as_ref()?;
        let gate = lock(&shared.gate);
        let registered = lock(&shared.registered);
        let member = registered.get(&(agent.clone(), worker.clone()))?;
        let barred = shared.says(&gate, (agent, worker, release), member, now);
        Some(Judged { barred })
    }

    /// The same of one that has shown nothing, if it need not: Segue started it.
    pub(crate) fn attested(
        &self,
        agent: &AgentName,
        worker: &WorkerId,
        (label, id): (&Label, ReleaseId),
        now: Timestamp,
    ) -> Option<Judged> {
        let shared = self.0.as_ref()?;
        if shared.config.spec.workers != WorkersNeed::Attested
            || shared.config.elsewhere.contains(agent)
        {
            return None;
        }
        let (gate, is) = (lock(&shared.gate), (agent, label, id));
        let (_, barred) = shared.judge(&gate, (worker, None), (is, None), now);
        Some(Judged { barred })
    }

    /// A worker's process is gone; the next one shows its own token.
    pub(crate) fn forget(&self, agent: &AgentName, worker: &WorkerId) {
        if let Some(shared) = &self.0 {
            lock(&shared.registered).remove(&(agent.clone(), worker.clone()));
        }
    }

    /// What belongs into the log; without an agent, into that of each.
    pub(crate) fn told(&self) -> Told {
        let take = |shared: &Arc<Shared>| lock(&shared.told).take();
        self.0.as_ref().map(take).unwrap_or_default()
    }
}

impl Shared {
    /// Whether workers of an agent must show a token here.
    fn registers(&self, agent: &AgentName) -> bool {
        self.config.spec.workers == WorkersNeed::Registered
            && !self.config.elsewhere.contains(agent)
    }

    /// Why somebody who shows that may take no new call: as the table has it, if Segue started them.
    fn says(
        &self,
        gate: &Gate,
        (agent, worker, release): (&AgentName, &WorkerId, Option<(&Label, ReleaseId)>),
        member: &Member,
        now: Timestamp,
    ) -> Option<&'static str> {
        match release {
            Some((label, id)) => {
                let is = (agent, label, id);
                self.judge(gate, (worker, Some(member)), (is, None), now).1
            }
            None => barred(standing(gate, worker, member, now)),
        }
    }

    /// The one judgement of a worker of a release: the table goes by it, and what workers are told.
    fn judge(
        &self,
        gate: &Gate,
        (worker, member): (&WorkerId, Option<&Member>),
        (is, badge): ((&AgentName, &Label, ReleaseId), Option<&Badge>),
        now: Timestamp,
    ) -> (Option<Badge>, Option<&'static str>) {
        let (agent, label, id) = is;
        let registers = self.registers(agent);
        let is_other = |is: &&Member| (&is.version, is.digest) != (label, id);
        if registers && member.as_ref().is_some_and(is_other) {
            return (None, Some(CONTRADICTION));
        }
        let member = member.filter(|member| !is_other(member));
        let by_token = match (member, badge) {
            (Some(member), _) => Some(gate.standing(member, now)),
            (None, Some(badge)) => {
                let signer = KeyId::from(badge.signer.as_str());
                let by = (&badge.token, &signer, badge.sub.as_ref());
                Some(gate.stands(is, by, now))
            }
            (None, None) => None,
        };
        let barred = match by_token {
            _ if gate.is_revoked(worker) => Some(Why::Revoked.word()),
            None if registers => Some(UNREGISTERED),
            Some(standing) if registers => barred(standing),
            // Nobody asks for a token; but one that was shown and taken back is no good sign.
            Some(Standing::Draining(Why::Revoked)) => Some(Why::Revoked.word()),
            Some(_) | None => barred(gate.release(is, now)),
        };
        let shows = member.map(|member| Badge {
            token: member.token.clone(),
            signer: member.signer.to_string(),
            sub: member.worker.clone(),
        });
        (shows, barred)
    }

    /// Stores who has registered, now and then. Nobody waits for the disk meanwhile.
    fn save(&self, now: Timestamp) {
        let mut saved = lock(&self.saved);
        if saved.is_some_and(|at| at.elapsed() < SAVE_EVERY) {
            return;
        }
        let saving = lock(&self.gate).saving(now);
        if let Some(saving) = saving {
            *saved = Some(Instant::now());
            if let Err(error) = saving.write() {
                lock(&self.gate).unsaved();
                tracing::error!(%error, "who has registered is not written down");
            }
        }
    }

    /// Whether something changed.
    fn offer(&self, read: &mut Read, document: &'static str, file: &Path, now: Timestamp) -> bool {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => return self.unread(read, (document, file), &error, now),
        };
        if text == read.taken {
            // One that could not be read for a while.
            read.refused = None;
            return false;
        }
        let mut gate = lock(&self.gate);
        let offered = match document {
            "keys" => gate.offer_keys(&text, now),
            _ => gate.offer_manifest(&text, now).map(|taken| taken.ver),
        };
        drop(gate);
        let file = file.display();
        match offered {
            Ok(number) => {
                tracing::info!(%file, number, "membership is as this says now");
                *read = Read {
                    taken: text,
                    refused: None,
                };
                true
            }
            Err(error) => {
                // Times in it would make it another one each second.
                let told = format!("{} {text}", error.word());
                if read.refused.as_ref() == Some(&told) {
                    return false;
                }
                tracing::error!(%file, %error, "membership stays as it was");
                lock(&self.told).refused(document, (error.word(), &error.to_string()), now);
                read.refused = Some(told);
                true
            }
        }
    }
}

impl Shared {
    /// A file that is not there, or not to be read, is told once. Answers as [`Self::offer`].
    fn unread(
        &self,
        read: &mut Read,
        (document, file): (&'static str, &Path),
        error: &io::Error,
        now: Timestamp,
    ) -> bool {
        let told = format!("unread {error}");
        if read.refused.as_ref() == Some(&told) {
            return false;
        }
        let file = file.display();
        tracing::error!(%file, %error, "it cannot be read; membership stays as it was");
        let message = format!("{file}: {error}");
        lock(&self.told).refused(document, ("unread", &message), now);
        read.refused = Some(told);
        true
    }
}

/// How a worker stands by the token that it showed; its own name counts, whether the token says it or
/// not.
fn standing(gate: &Gate, worker: &WorkerId, member: &Member, now: Timestamp) -> Standing {
    if gate.is_revoked(worker) {
        return Standing::Draining(Why::Revoked);
    }
    gate.standing(member, now)
}

/// Why a worker may take no new call, if it may not.
///
/// Which of the admitted releases gets them is the controller's to say, and changes with a rollback
/// faster than a manifest: one that says `draining` of a release bars nobody here.
pub(crate) fn barred(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::Serving(_) | Standing::Draining(Why::Told) => None,
        Standing::Draining(why) => Some(why.word()),
    }
}

/// Each is whole whenever it is let go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
