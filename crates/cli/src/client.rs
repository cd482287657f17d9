//! The admin API, from the outside.

use std::time::Duration;

use segue_controller::api::wire::{
    ActionView, AgentView, Ask, AuditView, CallsView, DeployBody, Problem, StatusView, VerbBody,
    VerifyView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Exit, Trouble};
use crate::home::Home;

/// How long one request may take. A promotion is answered once it is acknowledged, which may take
/// as long as a lease.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Talks to the controller of one state folder.
pub(crate) struct Client {
    agent: ureq::Agent,
    home: Home,
}

impl Client {
    /// A client for the controller of this state folder.
    ///
    /// # Errors
    ///
    /// When none ever ran there.
    pub(crate) fn find(home: &Home) -> Result<Self, Trouble> {
        if home.token().is_none() {
            return Err(never_ran(home));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_MAX))
            .build()
            .into();
        Ok(Self {
            agent,
            home: home.clone(),
        })
    }

    /// Where the controller is now: it may have been restarted at another port.
    fn base(&self) -> Result<(String, String), Trouble> {
        let (Some(addr), Some(token)) = (self.home.api_addr(), self.home.token()) else {
            return Err(away("it is not there yet"));
        };
        Ok((format!("http://{addr}"), format!("Bearer {token}")))
    }

    pub(crate) fn status(&self) -> Result<StatusView, Trouble> {
        self.get("/v1/status")
    }

    pub(crate) fn agent(&self, agent: &str) -> Result<AgentView, Trouble> {
        self.get(&format!("/v1/agents/{agent}"))
    }

    pub(crate) fn calls(&self, agent: &str, limit: usize) -> Result<CallsView, Trouble> {
        self.get(&format!("/v1/agents/{agent}/calls?limit={limit}"))
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

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        let (base, token) = self.base()?;
        let request = self.agent.get(format!("{base}{path}"));
        answer(request.header("Authorization", token).call())
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Trouble> {
        let (base, token) = self.base()?;
        let request = self.agent.post(format!("{base}{path}"));
        answer(request.header("Authorization", token).send_json(body))
    }
}

/// There is nothing of Segue in this folder.
pub(crate) fn never_ran(home: &Home) -> Trouble {
    Trouble::new(
        Exit::Unreachable,
        format!(
            "no controller has run with state in {}",
            home.path().display()
        ),
        "start one with `segue serve`, or name its state folder with --home",
    )
}

fn away(why: &str) -> Trouble {
    Trouble::new(
        Exit::Unreachable,
        format!("no controller answers: {why}"),
        "calls go on without it; start it with `segue serve`, see `segue logs controller`",
    )
}

fn answer<T: DeserializeOwned>(
    sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, Trouble> {
    let mut response = sent.map_err(|error| away(&error.to_string()))?;
    if response.status().is_success() {
        return response.body_mut().read_json().map_err(|error| {
            let message = format!("the controller's answer cannot be read: {error}");
            let hint = "is it of the same version? see `segue --version`";
            Trouble::new(Exit::Failed, message, hint)
        });
    }
    let status = response.status().as_u16();
    Err(refusal(status, response.body_mut().read_json().ok()))
}

fn refusal(status: u16, problem: Option<Problem>) -> Trouble {
    let exit = match (
        status,
        problem.as_ref().map(|problem| problem.kind.as_str()),
    ) {
        (400 | 404, _) => Exit::Usage,
        (409, Some("conflict")) => Exit::Conflict,
        (409 | 422, _) => Exit::Refused,
        _ => Exit::Failed,
    };
    match problem {
        Some(problem) => Trouble {
            exit,
            message: problem.title,
            hint: problem.hint,
        },
        None => Trouble {
            exit,
            message: format!("the controller answered with status {status}"),
            hint: None,
        },
    }
}
