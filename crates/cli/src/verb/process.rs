//! `segue gateway` and `segue controller`: the two processes that `segue serve` supervises.

use std::path::Path;

use anyhow::Context as _;
use segue_controller::api::{ApiConfig, ApiTls, Rate};
use segue_core::spec::Spec;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{ConfigArgs, GatewayArgs};
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// Reads and checks the configuration; every fault is told at once.
pub(crate) fn configuration(file: &Path) -> Result<Spec, Trouble> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let hint = "`segue init` writes one; name another with --config FILE";
        Trouble::new(Exit::Usage, format!("{name} cannot be read: {error}"), hint)
    })?;
    segue_core::spec::parse(&name, &text).map_err(|faults| {
        let count = faults.len();
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let plural = if count == 1 { "" } else { "s" };
        Trouble {
            exit: Exit::Usage,
            message: format!("{name} has {count} fault{plural}:\n{}", faults.join("\n")),
            hint: Some("nothing was changed; mend the file and try again".to_owned()),
        }
    })
}

/// The folder relative paths of a configuration are relative to.
pub(crate) fn folder(file: &Path) -> anyhow::Result<std::path::PathBuf> {
    let file = std::path::absolute(file)?;
    Ok(file.parent().context("a file has a folder")?.to_path_buf())
}

/// Ends when the process is asked to end. From the call on, not from the first wait, neither
/// signal ends it at once: it may be taking calls over.
pub(crate) fn terminated() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

fn limits(of: &segue_core::spec::GatewayLimits) -> segue_gateway::Limits {
    let count = |count: u32| usize::try_from(count).expect("a machine of 32 bits or more");
    let length = |length: segue_core::time::Millis| std::time::Duration::from_millis(length.0);
    segue_gateway::Limits {
        connections: count(of.max_connections),
        connections_per_address: count(of.max_connections_per_address),
        head_timeout: length(of.head_timeout),
        body_timeout: length(of.body_timeout),
        stall_timeout: length(of.stall_timeout),
    }
}

/// Whether the gateway's callers speak TLS; a configuration with faults is told of later.
pub(crate) fn speaks_tls(args: &GatewayArgs) -> bool {
    configuration(&args.config.config).is_ok_and(|spec| spec.gateway.tls.is_some())
}

pub(crate) async fn gateway(home: &Home, args: &GatewayArgs) -> anyhow::Result<Exit> {
    let file = &args.config.config;
    let spec = configuration(file)?;
    home.create()?;
    let folder = folder(file)?;
    let tls = spec.gateway.tls.map(|tls| segue_gateway::TlsFiles {
        cert: folder.join(tls.cert),
        key: folder.join(tls.key),
    });
    let config = segue_gateway::Config {
        listen: spec.gateway.listen,
        tls,
        gateway: args.id.clone(),
        state_dir: home.path().to_path_buf(),
        control_socket: home.control_socket(),
        takeover: args.takeover.clone(),
        shards: 1,
        limits: limits(&spec.gateway.limits),
    };
    match segue_gateway::run(config, terminated()?).await {
        Err(segue_gateway::RunError::Takeover { path, source }) => Err(Trouble {
            exit: Exit::Failed,
            message: format!("cannot take over from {}: {source}", path.display()),
            hint: source.hint(),
        }
        .into()),
        ended => Ok(ended.map(|()| Exit::Ok)?),
    }
}

/// What this binary speaks, as JSON.
pub(crate) fn versions() -> anyhow::Result<Exit> {
    let ours = segue_gateway::handoff::Versions::ours();
    output::line(&serde_json::to_string(&ours)?);
    Ok(Exit::Ok)
}

pub(crate) async fn controller(home: &Home, args: &ConfigArgs) -> anyhow::Result<Exit> {
    let spec = configuration(&args.config)?;
    home.create()?;
    let folder = folder(&args.config)?;
    let source = segue_controller::Source {
        file: std::path::absolute(&args.config)?,
        spec: spec.clone(),
    };
    let elsewhere = spec.livekit.iter().flat_map(|is| is.agents.keys().cloned());
    let elsewhere = elsewhere.collect();
    let api = ApiConfig {
        listen: spec.api.listen,
        tls: spec.api.tls.map(|tls| ApiTls {
            cert: folder.join(tls.cert),
            key: folder.join(tls.key),
        }),
        names: spec.api.names,
        rate: Rate::per_second(spec.api.rate_limit),
    };
    let config = segue_controller::ControllerConfig {
        state_dir: home.path().to_path_buf(),
        api,
        agents: spec.agents,
        gateway_tls: spec.gateway.tls.map(|tls| folder.join(tls.cert)),
        config_dir: folder,
        notify: spec.notify,
        telemetry: spec.telemetry,
        membership: spec
            .membership
            .map(|spec| segue_controller::MembershipConfig { spec, elsewhere }),
        source: Some(source),
    };
    segue_controller::run(config, terminated()?).await?;
    Ok(Exit::Ok)
}
