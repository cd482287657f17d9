//! `segue sample-agent`: an agent that needs nothing but this binary.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use segue_voice::agent::{AgentConfig, serve_on};
use tokio::net::TcpListener;

use crate::args::SampleArgs;
use crate::exit::{Exit, Trouble};
use crate::verb::process::terminated;

pub(crate) async fn run(args: SampleArgs) -> anyhow::Result<Exit> {
    let fault = args.fault.parse().map_err(|error| {
        let message = format!("--fault: {error}");
        Trouble::new(
            Exit::Usage,
            message,
            "`segue sample-agent --help` lists them",
        )
    })?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let config = AgentConfig {
        listen,
        release: args.release,
        worker: args.worker,
        log: args.call_log,
        fault,
    };
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(%listen, release = %config.release, "sample agent takes calls");
    serve_on(config, listener, terminated()?).await?;
    Ok(Exit::Ok)
}
