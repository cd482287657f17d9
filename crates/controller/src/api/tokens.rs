//! Tokens: who somebody is. All of them are kept in memory, so that nobody who asks waits for a
//! disk to be known, least of all for a rollback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::StatusCode;
use segue_core::names::AgentName;
use segue_core::time::{Millis, Timestamp};

use super::bucket::Asker;
use super::problem::Reject;
use super::wire::{NewTokenView, Role, TokenBody, TokenView};
use super::workers::WorkerTokens;
use crate::secret;
use crate::store::{ControlStore, StoreError, TOKENS_MAX, TokenRecord};

/// How long a token is good unless asked otherwise, and at most, in seconds.
const EXPIRES_IN_S: (u64, u64) = (90 * 24 * 3_600, 366 * 24 * 3_600);
/// Random bytes of a token's public part.
const ID_BYTES: usize = 6;
/// Random bytes of its secret: nobody guesses 256 bits.
const SECRET_BYTES: usize = 32;
/// How often the last use of a token is written down.
const TOUCH_EVERY: Millis = Millis::from_secs(60);
/// What a token begins with, so that those who look for leaked ones find it.
const PREFIX: &str = "segue_";

/// Id of the token in the state directory.
const LOCAL: &str = "local";
/// Name of the tokens that workers are given; the ids are made of it and the agent.
const WORKERS: &str = "workers";

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Principal {
    /// Of the token.
    pub(super) id: String,
    /// Under which decisions are written down.
    pub(super) name: String,
    pub(super) role: Role,
    /// Whose calls a worker may touch. Every token of a worker has one.
    pub(super) agent: Option<AgentName>,
    /// It is the token of the state directory, whose holder speaks for others.
    pub(super) is_local: bool,
}

impl Principal {
    /// Whose requests theirs are counted with.
    pub(super) fn asker(&self) -> Asker {
        match self.role {
            Role::Worker => Asker::Workers(self.id.clone()),
            _ => Asker::Token(self.id.clone()),
        }
    }

    /// A worker has to do with its own agent alone.
    pub(super) fn check(&self, agent: &AgentName) -> Result<(), Reject> {
        if self.role != Role::Worker || self.agent.as_ref() == Some(agent) {
            return Ok(());
        }
        Err(Reject::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this token is not for workers of {agent}"),
            "use the token of SEGUE_TOKEN_FILE, or one of `segue token create --role worker --agent NAME`",
        ))
    }
}

/// Why somebody is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error("the token is missing or wrong")]
    Wrong,
    #[error("the token has expired")]
    Expired,
    #[error("the token was revoked")]
    Revoked,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoToken {
    #[error("{0:?} is not a usable name")]
    BadName(String),
    #[error("a token ends after 1 to {max} seconds", max = EXPIRES_IN_S.1)]
    BadExpiry,
    #[error("the token of a worker belongs to an agent")]
    NoAgent,
    #[error("the token of a {} belongs to no agent", .0.word())]
    NotOfAgent(Role),
    #[error("{0} has a token already")]
    NameTaken(String),
    #[error("{TOKENS_MAX} tokens are good, and there may be no more")]
    TooMany,
    #[error("there are no random numbers: {0}")]
    NoRandom(std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Every token.
pub(crate) struct Tokens {
    store: Arc<dyn ControlStore>,
    /// Digest of the token in the state directory.
    local: String,
    workers: WorkerTokens,
    known: RwLock<BTreeMap<String, TokenRecord>>,
    /// Held while one is made or revoked and the disk is waited for; those who ask do not.
    changing: Mutex<()>,
}

impl Tokens {
    /// Reads them. Calls block.
    pub(crate) fn load(
        store: Arc<dyn ControlStore>,
        local: &str,
        workers: WorkerTokens,
    ) -> Result<Self, StoreError> {
        let known = store.tokens()?.into_iter();
        let known = known.map(|token| (token.id.clone(), token)).collect();
        Ok(Self {
            store,
            local: secret::digest(local),
            workers,
            known: RwLock::new(known),
            changing: Mutex::default(),
        })
    }

    /// Who sent this `Authorization`, and whether their use of it should be written down.
    pub(super) fn who(
        &self,
        authorization: Option<&str>,
        now: Timestamp,
    ) -> Result<(Principal, bool), Unknown> {
        let (scheme, token) = authorization
            .and_then(|text| text.split_once(' '))
            .ok_or(Unknown::Wrong)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unknown::Wrong);
        }
        let token = token.trim();
        if secret::same(&secret::digest(token), &self.local) {
            let principal = Principal {
                id: LOCAL.to_owned(),
                name: "api".to_owned(),
                role: Role::Admin,
                agent: None,
                is_local: true,
            };
            return Ok((principal, false));
        }
        if let Some(agent) = self.workers.agent(token) {
            let principal = Principal {
                id: format!("{WORKERS}:{agent}"),
                name: WORKERS.to_owned(),
                role: Role::Worker,
                agent: Some(agent),
                is_local: false,
            };
            return Ok((principal, false));
        }
        let (id, given) = token
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(Unknown::Wrong)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let record = known.get_mut(id).ok_or(Unknown::Wrong)?;
        if !secret::same(&secret::digest(given), &record.digest) {
            return Err(Unknown::Wrong);
        }
        if record.revoked_at.is_some() {
            return Err(Unknown::Revoked);
        }
        if now >= record.expires_at {
            return Err(Unknown::Expired);
        }
        let touch = record
            .used_at
            .is_none_or(|used| now.since(used) >= TOUCH_EVERY);
        if touch {
            record.used_at = Some(now);
        }
        let principal = Principal {
            id: record.id.clone(),
            name: record.name.clone(),
            role: record.role,
            agent: record.agent.clone(),
            is_local: false,
        };
        Ok((principal, touch))
    }

    /// Whether a token that was good still is; workers, who may not listen, need not ask.
    pub(super) fn is_good(&self, principal: &Principal, now: Timestamp) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let record = known.get(&principal.id);
        record.map_or(principal.is_local, |record| record.is_good(now))
    }

    /// Writes down that a token was used. Calls block; it is not worth failing for.
    pub(super) fn touch(&self, id: &str, now: Timestamp) {
        if let Err(error) = self.store.touch_token(id, now) {
            tracing::warn!(%error, "the last use of a token could not be written down");
        }
    }

    /// Makes a token. Calls block.
    pub(super) fn make(
        &self,
        body: TokenBody,
        actor: &str,
        now: Timestamp,
    ) -> Result<NewTokenView, NoToken> {
        let name = body.name.parse::<segue_core::names::Label>();
        if name.is_err() {
            return Err(NoToken::BadName(body.name));
        }
        match (&body.agent, body.role) {
            (None, Role::Worker) => return Err(NoToken::NoAgent),
            (Some(_), role) if role != Role::Worker => return Err(NoToken::NotOfAgent(role)),
            _ => {}
        }
        let expires_in = body.expires_in.unwrap_or(EXPIRES_IN_S.0);
        if !(1..=EXPIRES_IN_S.1).contains(&expires_in) {
            return Err(NoToken::BadExpiry);
        }
        let random = |bytes| secret::random_hex(bytes).map_err(NoToken::NoRandom);
        let (id, secret) = (random(ID_BYTES)?, random(SECRET_BYTES)?);
        let record = TokenRecord {
            id: id.clone(),
            name: body.name,
            role: body.role,
            agent: body.agent,
            digest: secret::digest(&secret),
            created_at: now,
            created_by: actor.to_owned(),
            expires_at: now + Millis::from_secs(expires_in),
            revoked_at: None,
            used_at: None,
        };
        // Of two with one name only one may win.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_room(&record.name, now)?;
        self.store.add_token(&record, now)?;
        let view = view(&record);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(id.clone(), record);
        drop(known);
        Ok(NewTokenView {
            token: Some(format!("{PREFIX}{id}_{secret}")),
            view,
        })
    }

    fn check_room(&self, name: &str, now: Timestamp) -> Result<(), NoToken> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let good = || known.values().filter(|token| token.is_good(now));
        if good().any(|token| token.name == name) {
            return Err(NoToken::NameTaken(name.to_owned()));
        }
        if good().count() >= TOKENS_MAX {
            return Err(NoToken::TooMany);
        }
        Ok(())
    }

    /// Revokes a token; it opens nothing from the answer on. Answers whether there was a good one.
    /// Calls block.
    pub(super) fn revoke(&self, id: &str, actor: &str, now: Timestamp) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = self.store.revoke_token(id, actor, now)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = known.get_mut(id).filter(|_| revoked) {
            record.revoked_at = Some(now);
        }
        Ok(revoked)
    }

    /// Those that are listed, oldest first.
    pub(super) fn list(&self) -> Vec<TokenView> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<TokenView> = known.values().map(view).collect();
        views.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        views
    }
}

fn view(record: &TokenRecord) -> TokenView {
    TokenView {
        id: record.id.clone(),
        name: record.name.clone(),
        role: record.role,
        agent: record.agent.clone(),
        created_at: record.created_at,
        created_by: record.created_by.clone(),
        expires_at: record.expires_at,
        revoked_at: record.revoked_at,
        used_at: record.used_at,
    }
}
