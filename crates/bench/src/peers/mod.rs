//! The proxies that are measured, each as its own documents say it should run, on one processor.
//!
//! Nobody is held back: no logs but Segue's own, timeouts of an hour, descriptors for every call,
//! and buffers as they come. What is not installed is said to be missing.

mod configs;
mod segue;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::crew::{Crew, Start, Started};
use crate::part::Part;
use crate::relay::Damage;

/// How long a proxy may take until it listens.
const LISTEN_PATIENCE: Duration = Duration::from_secs(20);

/// What calls go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Segue.
    Segue,
    /// `HAProxy`.
    Haproxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
    /// Sozu.
    Sozu,
    /// A relay that parses nothing.
    Relay,
    /// Nothing at all.
    Direct,
}

impl Target {
    /// For tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segue => "segue",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Sozu => "sozu",
            Self::Relay => "relay",
            Self::Direct => "direct",
        }
    }

    /// Whether it can end TLS.
    pub(crate) fn speaks_tls(self) -> bool {
        matches!(
            self,
            Self::Segue | Self::Haproxy | Self::Nginx | Self::Envoy
        )
    }
}

/// Where the programs are.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// This one: Segue, the yardstick, the generator and the agents.
    pub segue: PathBuf,
    /// The gateway to measure, if it is another build.
    pub gateway: Option<PathBuf>,
    /// By name or path; else what is found in `PATH`.
    pub haproxy: Option<PathBuf>,
    /// As `haproxy`.
    pub nginx: Option<PathBuf>,
    /// As `haproxy`.
    pub envoy: Option<PathBuf>,
    /// As `haproxy`.
    pub sozu: Option<PathBuf>,
}

impl Programs {
    /// The program of a peer, if it is installed.
    pub fn find(&self, target: Target) -> Option<PathBuf> {
        let told = match target {
            Target::Segue => return Some(self.gateway.clone().unwrap_or(self.segue.clone())),
            Target::Relay | Target::Direct => return Some(self.segue.clone()),
            Target::Haproxy => &self.haproxy,
            Target::Nginx => &self.nginx,
            Target::Envoy => &self.envoy,
            Target::Sozu => &self.sozu,
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Where Debian has servers, and an ordinary user's PATH has not.
        let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        match told {
            Some(told) if told.components().count() > 1 => told.is_file().then(|| told.clone()),
            told => {
                let name = told.as_deref().unwrap_or(Path::new(target.name()));
                let mut found = places.map(|place| place.join(name));
                found.find(|file| file.is_file())
            }
        }
    }

    /// What a peer says that it is.
    pub fn version(&self, target: Target) -> String {
        let Some(program) = self.find(target) else {
            return "not installed".to_owned();
        };
        let flag = match target {
            Target::Relay | Target::Direct => return "built in".to_owned(),
            Target::Haproxy | Target::Nginx => "-v",
            _ => "--version",
        };
        let output = Command::new(program).arg(flag).output();
        let said = output.map(|output| [output.stdout, output.stderr].concat());
        let said = said.unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let words = said.split(|c: char| c.is_whitespace() || c == '/');
        let version = words
            .filter(|word| word.contains('.'))
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        version.map_or_else(|| "unknown".to_owned(), str::to_owned)
    }
}

/// A certificate for the proxy, and the same for its callers.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one, as `HAProxy` wants it.
    pub(crate) both: PathBuf,
}

impl TlsFiles {
    pub(crate) fn make(dir: &Path) -> Result<Self, BenchError> {
        let names = vec![crate::drive::TLS_NAME.to_owned()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| BenchError::Prepare(std::io::Error::other(error)))?;
        let files = Self {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            both: dir.join("both.pem"),
        };
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        write(&files.cert, &cert)?;
        write(&files.key, &key)?;
        write(&files.both, &format!("{cert}{key}"))?;
        Ok(files)
    }
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(BenchError::Prepare)
}

/// What a proxy needs to know.
pub(crate) struct Setting<'a> {
    pub(crate) crew: &'a Crew,
    pub(crate) programs: &'a Programs,
    /// Its own.
    pub(crate) dir: &'a Path,
    pub(crate) cpu: Option<usize>,
    pub(crate) backends: [SocketAddr; 2],
    pub(crate) tls: Option<&'a TlsFiles>,
    pub(crate) damage: Damage,
}

/// A proxy that takes calls.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    /// All its processes that we started; the first one takes the calls.
    pub(crate) started: Vec<Started>,
    /// How the first one was started.
    command: Vec<String>,
}

impl Proxy {
    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.started.iter().map(Started::pid).collect()
    }

    pub(crate) fn start(target: Target, setting: &Setting<'_>) -> Result<Self, BenchError> {
        let addr = free_address()?;
        let program = setting.programs.find(target);
        let program = program.ok_or(BenchError::Missing(target))?;
        let text = |path: &Path| path.display().to_string();
        let command = match target {
            Target::Direct => {
                return Ok(Self {
                    addr: setting.backends[0],
                    started: Vec::new(),
                    command: Vec::new(),
                });
            }
            Target::Segue => return segue::start(setting, addr, &program),
            Target::Relay => {
                let part = Part::Relay {
                    listen: addr,
                    backends: setting.backends.to_vec(),
                    damage: setting.damage,
                };
                return Self::listening(addr, setting.spawn("relay", part)?, setting.crew);
            }
            Target::Haproxy => {
                let file = setting.dir.join("haproxy.cfg");
                write(&file, &configs::haproxy(setting, addr))?;
                vec![text(&program), "-db".into(), "-f".into(), text(&file)]
            }
            Target::Nginx => {
                let file = setting.dir.join("nginx.conf");
                write(&file, &configs::nginx(setting, addr))?;
                let dir = text(setting.dir);
                let args = ["-p", &dir, "-e", "stderr", "-c", &text(&file)].map(str::to_owned);
                [vec![text(&program)], args.to_vec()].concat()
            }
            Target::Envoy => {
                let file = setting.dir.join("envoy.json");
                write(&file, &configs::envoy(setting, addr))?;
                let args = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"];
                let args = args.map(str::to_owned).to_vec();
                [vec![text(&program), "-c".into(), text(&file)], args].concat()
            }
            Target::Sozu => {
                let file = setting.dir.join("sozu.toml");
                write(&file, &configs::sozu(setting, addr))?;
                let args = ["start", "--config", &text(&file)].map(str::to_owned);
                [vec![text(&program)], args.to_vec()].concat()
            }
        };
        let started = setting.spawn(target.name(), Part::Exec { command })?;
        Self::listening(addr, started, setting.crew)
    }

    fn listening(addr: SocketAddr, mut started: Started, crew: &Crew) -> Result<Self, BenchError> {
        wait_until_listening(addr, &mut started, crew)?;
        Ok(Self {
            addr,
            started: vec![started],
            command: Vec::new(),
        })
    }
}

impl Setting<'_> {
    pub(crate) fn spawn(&self, name: &str, part: Part) -> Result<Started, BenchError> {
        let home = self.dir.join("home").display().to_string();
        let start = Start {
            name,
            program: &self.programs.segue,
            dir: self.dir,
            cpu: self.cpu,
            env: &[("SEGUE_HOME", &home)],
        };
        self.crew.start(&start, part)
    }
}

/// Waits until a process takes connections.
pub(crate) fn wait_until_listening(
    addr: SocketAddr,
    started: &mut Started,
    crew: &Crew,
) -> Result<(), BenchError> {
    let end = Instant::now() + LISTEN_PATIENCE;
    loop {
        if TcpStream::connect(addr).is_ok() {
            return Ok(());
        }
        if !started.is_running() {
            return Err(started.failure("ended before it took calls"));
        }
        if Instant::now() > end {
            return Err(started.failure("does not take calls"));
        }
        crew.wait(Duration::from_millis(10))?;
    }
}

/// A port that nobody has just now.
pub(crate) fn free_address() -> Result<SocketAddr, BenchError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(BenchError::Prepare)
}
