//! Permits of outbound calls (`may_dial`): a worker that is about to dial asks first.
//!
//! An outbound call comes by no gateway, so nobody would count it, and its release would be taken
//! for empty while it talks. A permit is counted as a call from the moment it is given until it is
//! returned or has expired. It is given by the driver, which also decides about drains: either the
//! release drains first and the permit is refused, or the permit is out first and counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::names::{AgentName, ReleaseId};
use segue_core::time::{Millis, Timestamp};

use crate::driver::blocking;
use crate::secret::random_hex;
use crate::store::{Permit, PermitStore, StoreError};

/// How long a permit lasts unless it says otherwise: longer than almost any call, and short enough
/// that a worker that died holds no release for a day.
pub(crate) const TTL: Millis = Millis::from_secs(4 * 3_600);
/// The longest; a longer call renews it.
pub(crate) const TTL_MAX: Millis = Millis::from_secs(24 * 3_600);
/// Permits of one agent that may be out at once: more than its workers can hold calls.
pub(crate) const OUT_MAX: usize = 10_000;
/// Random bytes of an id.
const ID_BYTES: usize = 16;

/// Why a permit was not given or renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPermit {
    /// Somebody else dials, or the call is not made.
    #[error("{label} is {state} and takes no new calls")]
    Draining { label: String, state: &'static str },
    /// It was given to another agent, returned, or has expired.
    #[error("there is no such permit, or it has expired")]
    Unknown,
    /// Workers return what they do not need.
    #[error("{OUT_MAX} permits are out")]
    TooMany,
    /// It could not be written down.
    #[error("the permit could not be written down: {0}")]
    Store(String),
}

impl From<StoreError> for NoPermit {
    fn from(error: StoreError) -> Self {
        Self::Store(crate::driver::describe(&error))
    }
}

/// The permits that are out.
#[derive(Debug)]
pub(crate) struct Permits {
    store: Arc<dyn PermitStore>,
    out: BTreeMap<String, Permit>,
}

impl Permits {
    /// Those of before.
    pub(crate) async fn load(
        store: Arc<dyn PermitStore>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let of = Arc::clone(&store);
        let out = blocking(move || of.load(now)).await?;
        let out = out.into_iter().map(|permit| (permit.id.clone(), permit));
        let out = out.collect();
        Ok(Self { store, out })
    }

    /// How many are out, by release. One that has expired does not count any more.
    pub(crate) fn counts(&self, agent: &AgentName, now: Timestamp) -> BTreeMap<ReleaseId, u64> {
        let mut counts = BTreeMap::new();
        for permit in self.good(agent, now) {
            *counts.entry(permit.release).or_default() += 1;
        }
        counts
    }

    /// Those of an agent, oldest first.
    pub(crate) fn list(&self, agent: &AgentName, now: Timestamp) -> Vec<Permit> {
        let mut permits: Vec<Permit> = self.good(agent, now).cloned().collect();
        permits.sort_by(|a, b| (a.granted_at, &a.id).cmp(&(b.granted_at, &b.id)));
        permits
    }

    fn good<'a>(
        &'a self,
        agent: &'a AgentName,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Permit> {
        self.out
            .values()
            .filter(move |permit| permit.agent == *agent && permit.expires_at > now)
    }

    /// Gives one. It is durable when this answers.
    pub(crate) async fn grant(
        &mut self,
        agent: &AgentName,
        release: ReleaseId,
        (call, holder): (Option<String>, String),
        (now, ttl): (Timestamp, Millis),
    ) -> Result<Permit, NoPermit> {
        self.collect(now).await;
        if self.good(agent, now).count() >= OUT_MAX {
            return Err(NoPermit::TooMany);
        }
        let id = random_hex(ID_BYTES).map_err(|error| NoPermit::Store(error.to_string()))?;
        let permit = Permit {
            call: call.unwrap_or_else(|| format!("out-{id}")),
            id,
            agent: agent.clone(),
            release,
            holder,
            granted_at: now,
            expires_at: now + ttl,
        };
        self.put(permit).await
    }

    /// Makes one last from now on, also while its release drains: its call goes on.
    pub(crate) async fn renew(
        &mut self,
        agent: &AgentName,
        id: &str,
        (now, ttl): (Timestamp, Millis),
    ) -> Result<Permit, NoPermit> {
        let known = self.good(agent, now).find(|permit| permit.id == id);
        let mut permit = known.cloned().ok_or(NoPermit::Unknown)?;
        permit.expires_at = now + ttl;
        self.put(permit).await
    }

    /// Takes one back: its call is over.
    pub(crate) async fn end(
        &mut self,
        agent: &AgentName,
        id: &str,
        now: Timestamp,
    ) -> Result<(), NoPermit> {
        if !self.good(agent, now).any(|permit| permit.id == id) {
            return Err(NoPermit::Unknown);
        }
        let (store, ids) = (Arc::clone(&self.store), vec![id.to_owned()]);
        blocking(move || store.remove(&ids)).await?;
        self.out.remove(id);
        Ok(())
    }

    async fn put(&mut self, permit: Permit) -> Result<Permit, NoPermit> {
        let (store, written) = (Arc::clone(&self.store), permit.clone());
        blocking(move || store.put(&written)).await?;
        self.out.insert(permit.id.clone(), permit.clone());
        Ok(permit)
    }

    /// Removes what has expired; what cannot be removed now is later.
    async fn collect(&mut self, now: Timestamp) {
        let old = self.out.values().filter(|permit| permit.expires_at <= now);
        let ids: Vec<String> = old.map(|permit| permit.id.clone()).collect();
        if ids.is_empty() {
            return;
        }
        let (store, of) = (Arc::clone(&self.store), ids.clone());
        if blocking(move || store.remove(&of)).await.is_ok() {
            for id in ids {
                self.out.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqlitePermits;

    struct Place(std::path::PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn permits_count_until_they_end_and_survive_us() {
        let name = format!("segue-permits-{}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&place.0).unwrap();
        let open = || Arc::new(SqlitePermits::open(&place.0.join("control.db")).unwrap());
        let (desk, other): (AgentName, AgentName) = ("desk".parse().unwrap(), "o".parse().unwrap());
        let release = ReleaseId::of(b"one");
        let at = |seconds: u64| (Timestamp(seconds * 1_000), Millis::from_secs(60));
        let mut permits = Permits::load(open(), Timestamp(0)).await.unwrap();
        let who = |call: Option<&str>| (call.map(str::to_owned), "w1".to_owned());
        let first = permits
            .grant(&desk, release, who(Some("CA1")), at(0))
            .await
            .unwrap();
        let second = permits
            .grant(&desk, release, who(None), at(10))
            .await
            .unwrap();
        assert_eq!(first.call, "CA1");
        assert_eq!(first.expires_at, Timestamp(60_000));
        assert_ne!(first.id, second.id);
        let count = |permits: &Permits, seconds: u64| {
            let counts = permits.counts(&desk, Timestamp(seconds * 1_000));
            counts.get(&release).copied().unwrap_or(0)
        };
        assert_eq!(
            (
                count(&permits, 59),
                count(&permits, 60),
                count(&permits, 70)
            ),
            (2, 1, 0)
        );
        assert!(permits.counts(&other, Timestamp(0)).is_empty());

        // The next controller knows them too.
        let mut permits = Permits::load(open(), Timestamp(20_000)).await.unwrap();
        assert_eq!(
            permits.list(&desk, Timestamp(20_000)),
            [first.clone(), second.clone()]
        );
        let renewed = permits.renew(&desk, &first.id, at(50)).await.unwrap();
        assert_eq!(renewed.expires_at, Timestamp(110_000));
        assert!(permits.renew(&other, &first.id, at(50)).await.is_err());
        permits
            .end(&desk, &first.id, Timestamp(51_000))
            .await
            .unwrap();
        assert!(
            permits
                .end(&desk, &first.id, Timestamp(51_000))
                .await
                .is_err()
        );
        assert_eq!(count(&permits, 51), 1);
        assert!(
            permits.renew(&desk, &second.id, at(70)).await.is_err(),
            "expired"
        );

        // What has expired is removed with the next one.
        let third = permits
            .grant(&desk, release, who(None), at(80))
            .await
            .unwrap();
        let loaded = open().load(Timestamp(0)).unwrap();
        assert_eq!(loaded, [third]);
    }
}
