//! The file that a process runs, held on to whatever becomes of its name.
//!
//! Who installs a new binary puts it in the place of the old one. Until an upgrade has tried it,
//! nobody runs it: what crashes meanwhile is started again from the file that it ran, and is able to
//! read what was left. The kernel keeps that file as long as somebody holds it.

use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

/// The file of this very process, whatever its name is now.
const OURSELVES: &str = "/proc/self/exe";

/// What the kernel appends to the name of a file that has none any more.
const DELETED: &str = " (deleted)";

/// What is run.
#[derive(Debug, Clone)]
pub(super) enum Binary {
    /// The file that this process runs.
    Ours,
    /// The one that another process was seen to run.
    Held(Arc<Held>),
    /// The one that has this name when it is started.
    Named(PathBuf),
}

/// See [`Binary::Held`].
#[derive(Debug)]
pub(super) struct Held {
    file: OwnedFd,
    name: String,
}

impl Binary {
    /// What a process runs. `None`: it has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let exe = format!("/proc/{pid}/exe");
        let file = rustix::fs::open(&exe, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let name = name(&exe);
        Some(Self::Held(Arc::new(Held { file, name })))
    }

    pub(super) fn named(path: &Path) -> Self {
        Self::Named(path.to_owned())
    }

    /// Where a process that this one starts finds it.
    pub(super) fn program(&self) -> String {
        match self {
            Self::Ours => OURSELVES.to_owned(),
            // It closes only when the program runs.
            Self::Held(held) => format!("/proc/self/fd/{}", held.file.as_raw_fd()),
            Self::Named(path) => path.display().to_string(),
        }
    }
}

/// Whether another process runs the very file that this one does.
pub(super) fn is_ours(pid: u32) -> bool {
    let of = |link: &str| {
        let file = std::fs::metadata(link).ok()?;
        Some((file.dev(), file.ino()))
    };
    let ours = of(OURSELVES);
    ours.is_some() && of(&format!("/proc/{pid}/exe")) == ours
}

/// As people know it.
impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str(&name(OURSELVES)),
            Self::Held(held) => f.write_str(&held.name),
            Self::Named(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What the file behind a link of the kernel is or was called.
fn name(link: &str) -> String {
    let path = std::fs::read_link(link).unwrap_or_else(|_| link.into());
    let path = path.display().to_string();
    let name = path.strip_suffix(DELETED).unwrap_or(&path);
    name.to_owned()
}

/// The file that is now in the place of the one that this process runs.
pub(super) fn in_place() -> PathBuf {
    name(OURSELVES).into()
}
