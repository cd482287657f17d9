//! What a gateway process is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use segue_core::names::GatewayId;

/// Files of a TLS identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificate chain, leaf first.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Everything a gateway needs to know; the rest comes in its routing tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where calls come in. Port 0: any free one; see [`crate::run`] for how to learn it.
    pub listen: SocketAddr,
    /// `None`: plain.
    pub tls: Option<TlsFiles>,
    /// Who we are, the same across restarts.
    pub gateway: GatewayId,
    /// Where `gateway/`, `log/` and `run/` are made.
    pub state_dir: PathBuf,
    /// The controller's Unix socket.
    pub control_socket: PathBuf,
    /// Handoff socket of a gateway that runs: take its listener and calls instead of binding.
    pub takeover: Option<PathBuf>,
    /// Relay threads; one or two carry thousands of calls.
    pub shards: usize,
    /// Bounds of the front.
    pub limits: Limits,
}

/// Bounds on connections that are not calls yet. A live call counts in the ledger instead, and not
/// by address: carriers place all of theirs from a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At once, from everywhere. Each may hold a head of 32 KiB and a body of 1 MiB.
    pub connections: usize,
    /// At once, from one address. A carrier or a balancer in front calls from few addresses, so
    /// this only keeps one of them from taking everything.
    pub connections_per_address: usize,
    /// From the connection to the end of its head, TLS included.
    pub head_timeout: Duration,
    /// From the head to the end of a body, and longer only as far as it comes at 16 KiB a second.
    pub body_timeout: Duration,
    /// How long a caller may leave 16 KiB of an answer unread. A live call is never given up so.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 1_024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// Names below the state directory.
impl Config {
    /// The tables that were installed last.
    pub fn tables_file(&self) -> PathBuf {
        self.state_dir.join("gateway").join("tables.json")
    }

    /// What the next gateway must know of our calls, should we die.
    pub fn journal_file(&self) -> PathBuf {
        self.state_dir.join("gateway").join("calls.journal")
    }

    /// One line for each ended call.
    pub fn call_log_file(&self) -> PathBuf {
        self.state_dir.join("log").join("calls.jsonl")
    }

    /// Where this gateway gives its calls to the next one.
    pub fn handoff_socket(&self) -> PathBuf {
        self.state_dir.join("run").join("handoff.sock")
    }

    /// Where whoever keeps our calls is found.
    pub fn keeper_socket(&self) -> PathBuf {
        self.state_dir.join("run").join("keeper.sock")
    }

    /// Holds the bound address while calls are taken.
    pub fn addr_file(&self) -> PathBuf {
        self.state_dir.join("run").join("gateway.addr")
    }

    /// Says which process took over last: see [`Up`](crate::Up).
    pub fn up_file(&self) -> PathBuf {
        self.state_dir.join("run").join("gateway.up")
    }
}
