//! The admin API, from the outside.

use segue_controller::api::wire::{
    ActionView, AgentView, Ask, AuditView, CallsView, DeployBody, DiffView, NewTokenView,
    PermitsView, ReloadView, StatusView, SteeredView, TokenBody, TokensView, VerbBody, VerifyView,
    WorkersView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::reach::{Reach, Response};

/// Calls asked for at once; the API gives no more.
const CALLS_PAGE: usize = 10_000;

/// The same of workers.
const WORKERS_PAGE: usize = 1_000;

/// Talks to the controller of one state folder, or of another machine.
pub(crate) struct Client(Reach);

impl Client {
    /// A client for the controller of this state folder, or for the one that was named instead.
    ///
    /// # Errors
    ///
    /// When none ever ran there, or the files for reaching it cannot be used.
    pub(crate) fn find(home: &Home) -> Result<Self, Trouble> {
        Reach::new(home).map(Self)
    }

    pub(crate) fn status(&self) -> Result<StatusView, Trouble> {
        self.get("/v1/status")
    }

    pub(crate) fn agent(&self, agent: &str) -> Result<AgentView, Trouble> {
        self.get(&format!("/v1/agents/{agent}"))
    }

    /// The oldest calls, page by page.
    pub(crate) fn calls(&self, agent: &str, limit: usize) -> Result<CallsView, Trouble> {
        let path = |limit: usize| format!("/v1/agents/{agent}/calls?limit={limit}");
        let mut whole: CallsView = self.get(&path(limit.clamp(1, CALLS_PAGE)))?;
        while let Some(after) = whole.next.take()
            && whole.calls.len() < limit
        {
            let left = (limit - whole.calls.len()).min(CALLS_PAGE);
            let page: CallsView = self.get(&format!("{}&after={after}", path(left)))?;
            whole.calls.extend(page.calls);
            whole.next = page.next;
        }
        Ok(whole)
    }

    /// Every worker of an agent, page by page.
    pub(crate) fn workers(&self, agent: &str) -> Result<WorkersView, Trouble> {
        let path = format!("/v1/agents/{agent}/workers?limit={WORKERS_PAGE}");
        let mut whole: WorkersView = self.get(&path)?;
        while let Some(after) = whole.next.take() {
            let page: WorkersView = self.get(&format!("{path}&after={after}"))?;
            whole.workers.extend(page.workers);
            whole.next = page.next;
        }
        Ok(whole)
    }

    /// Does something with one worker: `drain`, `undrain` or `kick`.
    pub(crate) fn steer_worker(
        &self,
        agent: &str,
        worker: &str,
        verb: &str,
        ask: &Ask,
    ) -> Result<SteeredView, Trouble> {
        self.post(&format!("/v1/agents/{agent}/workers/{worker}/{verb}"), ask)
    }

    pub(crate) fn audit(
        &self,
        after: u64,
        limit: usize,
        agent: Option<&str>,
    ) -> Result<AuditView, Trouble> {
        let agent = agent
            .map(|name| format!("&agent={name}"))
            .unwrap_or_default();
        self.get(&format!("/v1/audit?after={after}&limit={limit}{agent}"))
    }

    /// What tells two releases apart; without names, what a rollback would change.
    pub(crate) fn diff(
        &self,
        agent: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<DiffView, Trouble> {
        let given = [("from", from), ("to", to)];
        let given = given.into_iter().filter_map(|(key, is)| Some((key, is?)));
        let query: Vec<String> = given
            .map(|(key, name)| format!("{key}={}", escaped(name)))
            .collect();
        self.get(&format!("/v1/agents/{agent}/diff?{}", query.join("&")))
    }

    /// Has the configuration read again.
    pub(crate) fn reload(&self) -> Result<ReloadView, Trouble> {
        self.post("/v1/reload", &serde_json::json!({}))
    }

    pub(crate) fn permits(&self, agent: &str, limit: usize) -> Result<PermitsView, Trouble> {
        self.get(&format!("/v1/agents/{agent}/permits?limit={limit}"))
    }

    pub(crate) fn verify(&self) -> Result<VerifyView, Trouble> {
        self.get("/v1/audit/verify")
    }

    pub(crate) fn deploy(&self, agent: &str, body: &DeployBody) -> Result<ActionView, Trouble> {
        self.post(&format!("/v1/agents/{agent}/deploy"), body)
    }

    pub(crate) fn verb(
        &self,
        agent: &str,
        verb: &str,
        body: &VerbBody,
    ) -> Result<ActionView, Trouble> {
        self.post(&format!("/v1/agents/{agent}/{verb}"), body)
    }

    pub(crate) fn forget(&self, gateway: &str, ask: &Ask) -> Result<serde_json::Value, Trouble> {
        self.post(&format!("/v1/gateways/{gateway}/forget"), ask)
    }

    /// The agent that is meant: the named one, or the only one.
    pub(crate) fn one_agent(&self, named: Option<&str>) -> Result<AgentView, Trouble> {
        if let Some(name) = named {
            return self.agent(name);
        }
        let mut agents = self.status()?.agents;
        match agents.len() {
            1 => Ok(agents.remove(0)),
            0 => Err(Trouble::new(
                Exit::Usage,
                "no agent is configured",
                "add an [agents.NAME] table to segue.toml (`segue init` writes an example)",
            )),
            _ => {
                let names: Vec<String> =
                    agents.iter().map(|agent| agent.name.to_string()).collect();
                let hint = format!("name one with --agent: {}", names.join(", "));
                Err(Trouble::new(Exit::Usage, "there are several agents", &hint))
            }
        }
    }

    /// Makes a token. Its secret is in the answer and nowhere else.
    pub(crate) fn make_token(&self, body: &TokenBody) -> Result<NewTokenView, Trouble> {
        self.post("/v1/tokens", body)
    }

    pub(crate) fn tokens(&self, after: Option<&str>) -> Result<TokensView, Trouble> {
        let after = after
            .map(|after| format!("?after={after}"))
            .unwrap_or_default();
        self.get(&format!("/v1/tokens{after}"))
    }

    pub(crate) fn revoke_token(&self, id: &str) -> Result<(), Trouble> {
        let path = format!("/v1/tokens/{id}");
        self.0.send(&Method::DELETE, &path, None).map(drop)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        self.0.send(&Method::GET, path, None).and_then(read)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Trouble> {
        let body = serde_json::to_vec(body).expect("bodies always serialise");
        self.0.send(&Method::POST, path, Some(&body)).and_then(read)
    }
}

/// A value of a query: what is not a plain letter or digit is escaped.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(escape).collect()
}

fn read<T: DeserializeOwned>(mut response: Response) -> Result<T, Trouble> {
    response.body_mut().read_json().map_err(|error| {
        let message = format!("the controller's answer cannot be read: {error}");
        let hint = "is it of the same version? see `segue --version`";
        Trouble::new(Exit::Failed, message, hint)
    })
}
