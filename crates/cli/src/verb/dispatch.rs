//! `segue dispatch`: jobs of a LiveKit server, by the releases of their agents.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use segue_core::names::AgentName;
use segue_core::spec::{LivekitAdmission, LivekitAgent, LivekitSpec};
use segue_dispatch::address::ServerUrl;
use segue_dispatch::admit::{Admit, Registered, Unsigned};
use segue_dispatch::signed::Signed;
use segue_dispatch::trust::Trust;
use segue_dispatch::{AgentConfig, ApiKey, Config};
use segue_gateway::clock;

use super::process::{configuration, folder, terminated};
use crate::args::DispatchArgs;
use crate::exit::{Exit, Trouble};
use crate::home::Home;

pub(crate) async fn run(home: &Home, args: &DispatchArgs) -> anyhow::Result<Exit> {
    let file = &args.config.config;
    let Some(spec) = configuration(file)?.livekit else {
        let hint = "write [livekit], and [agents.NAME.livekit]: see docs/livekit.md";
        let message = format!("{} has no [livekit]", file.display());
        return Err(Trouble::new(Exit::Usage, message, hint).into());
    };
    home.create()?;
    if spec.believes_strangers() {
        tracing::warn!(
            listen = %spec.listen,
            "workers are believed without a token: whoever reaches this address is given calls"
        );
    }
    let folder = folder(file)?;
    let admit = admit(home, &folder, &spec)?;
    let agent = |(name, of): (&AgentName, &LivekitAgent)| {
        let config = AgentConfig {
            agent_name: of.name.clone(),
            namespace: of.namespace.clone(),
            hold: of.hold,
            redispatch: of.redispatch,
            room_metadata: of.room_metadata,
        };
        (name.clone(), config)
    };
    let config = Config {
        listen: spec.listen,
        door: args.door.then(door).transpose()?,
        server: ServerUrl::parse(&spec.url)?,
        trust: trust(&folder, spec.ca_file.as_deref())?,
        key: ApiKey {
            name: spec.api_key.clone(),
            secret: secret(&folder.join(&spec.secret_file))?,
        },
        gateway: args.id.clone(),
        state_dir: home.path().to_path_buf(),
        control_socket: home.control_socket(),
        agents: spec.agents.iter().map(agent).collect(),
    };
    let listen = "another program may have the port: see `listen` in [livekit]";
    let ran = segue_dispatch::run(config, admit, terminated()?).await;
    ran.map_err(|error| trouble(error, Exit::Failed, listen))?;
    Ok(Exit::Ok)
}

/// Our standard input, as `segue serve` has it: the next dispatcher gets the same.
fn door() -> anyhow::Result<Arc<TcpListener>> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.context("there is no standard input")?;
    Ok(Arc::new(TcpListener::from(socket)))
}

fn admit(home: &Home, folder: &Path, spec: &LivekitSpec) -> anyhow::Result<Arc<dyn Admit>> {
    Ok(match &spec.admission {
        LivekitAdmission::Unsigned => {
            let agents = spec.agents.iter();
            let agents =
                agents.map(|(agent, of)| (Registered::new(&of.name, &of.namespace), agent.clone()));
            Arc::new(Unsigned {
                agents: agents.collect(),
            })
        }
        LivekitAdmission::Signed {
            environment,
            keys,
            manifest,
        } => {
            let kept = home.path().join("dispatch");
            std::fs::create_dir_all(&kept)
                .with_context(|| format!("{} cannot be made", kept.display()))?;
            let hint = "`segue membership --help` says how these files are made";
            let opened = Signed::open(
                environment.clone(),
                folder.join(keys),
                folder.join(manifest),
                &kept.join("membership.json"),
                clock::now(),
            );
            Arc::new(opened.map_err(|error| trouble(error, Exit::Usage, hint))?)
        }
    })
}

/// What went wrong with its causes, and a way out.
fn trouble(
    error: impl std::error::Error + Send + Sync + 'static,
    exit: Exit,
    hint: &str,
) -> Trouble {
    let error = anyhow::Error::new(error);
    Trouble::new(exit, format!("{error:#}"), hint)
}

fn trust(folder: &Path, file: Option<&str>) -> anyhow::Result<Trust> {
    let Some(file) = file.map(|file| folder.join(file)) else {
        return Ok(Trust::default());
    };
    let name = file.display();
    let hint = "`ca_file` of [livekit] holds certificates, as -----BEGIN CERTIFICATE-----";
    let bad = |error: anyhow::Error| {
        let message = format!("{name} cannot be used: {error:#}");
        Trouble::new(Exit::Usage, message, hint)
    };
    let pem = std::fs::read(&file).map_err(|error| bad(error.into()))?;
    Ok(Trust::only(&pem).map_err(|error| bad(error.into()))?)
}

fn secret(file: &Path) -> Result<String, Trouble> {
    let name = file.display();
    let hint = "it holds the secret of the server's API key, and nothing else";
    let read = std::fs::read_to_string(file);
    let text = read.map_err(|error| {
        Trouble::new(Exit::Usage, format!("{name} cannot be read: {error}"), hint)
    })?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(Trouble::new(Exit::Usage, format!("{name} is empty"), hint));
    }
    Ok(secret.to_owned())
}
