//! Callers and agents over real sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use segue_voice::agent::{AgentConfig, serve_on};
use segue_voice::fault::Fault;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

mod agent;
mod caller;
mod calls;
mod scenario;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// An agent on a port of its own.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start(fault: &str) -> Self {
        Self::start_with(fault, None).await
    }

    async fn start_with(fault: &str, log: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut config = AgentConfig::new(address, "v1", "w1");
        config.fault = fault.parse::<Fault>().expect("a fault");
        config.log = log;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            serve_on(config, listener, async {
                stopped.await.unwrap_or_default();
            })
            .await
        });
        Self {
            address,
            stop,
            served,
        }
    }

    fn url(&self) -> String {
        format!("ws://{}/ws/{{call}}", self.address)
    }

    async fn stop(self) {
        self.stop.send(()).expect("the agent runs");
        let served = timeout(PATIENCE, self.served).await;
        let served = served
            .expect("the agent finishes")
            .expect("and does not panic");
        served.expect("and serves without error");
    }
}
