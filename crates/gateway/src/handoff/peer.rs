//! Who is on the other side: same user, by way of a folder that is nobody else's, and alive or not.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use super::HandoffError;

/// How long a process may need to be gone once its sockets are closed.
const DYING: Duration = Duration::from_secs(2);

/// Bits of a mode that let anybody else in.
const OTHERS: u32 = 0o077;

/// The process on the other side, held on to, so that its number is nobody else's.
#[derive(Debug)]
pub(super) struct Peer {
    /// `None`: this very process, or one that is gone.
    pidfd: Option<OwnedFd>,
    is_gone: bool,
}

impl Peer {
    /// Who that is; must be this process's user.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, HandoffError> {
        let peer = rustix::net::sockopt::socket_peercred(stream).map_err(io::Error::from)?;
        if peer.uid != geteuid() {
            return Err(HandoffError::Stranger(peer.uid.as_raw()));
        }
        Ok(Self::process(peer.pid))
    }

    /// Whether it is this very process, or one that cannot be told from it.
    pub(super) fn is_this(&self) -> bool {
        self.pidfd.is_none() && !self.is_gone
    }

    fn process(pid: Pid) -> Self {
        if pid == rustix::process::getpid() {
            return Self {
                pidfd: None,
                is_gone: false,
            };
        }
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        Self {
            is_gone: matches!(pidfd, Err(rustix::io::Errno::SRCH)),
            pidfd: pidfd.ok(),
        }
    }

    /// Whether it is dead, asked once its end of the stream is closed. One that lives has closed it
    /// on purpose.
    pub(super) fn has_died(&self) -> bool {
        self.is_gone || self.ends_within(DYING)
    }

    /// Ends it, and waits until it is gone: then nothing of it can move a byte. False: it cannot be
    /// ended.
    pub(super) fn kill(&self) -> bool {
        if let Some(pidfd) = &self.pidfd
            && let Err(error) = pidfd_send_signal(pidfd, Signal::KILL)
        {
            tracing::debug!(%error, "the other gateway took no signal");
        }
        self.has_died()
    }

    fn ends_within(&self, time: Duration) -> bool {
        let Some(pidfd) = &self.pidfd else {
            return false;
        };
        let time = Timespec::try_from(time).ok();
        loop {
            let mut descriptors = [PollFd::new(pidfd, PollFlags::IN)];
            match poll(&mut descriptors, time.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                polled => return matches!(polled, Ok(1..)),
            }
        }
    }
}

/// Refuses a socket in a folder that others may enter: whoever puts a socket there gets calls.
pub(crate) fn check_folder(socket: &Path) -> Result<(), HandoffError> {
    let folder = socket.parent().unwrap_or(Path::new("."));
    let found = std::fs::metadata(folder)?;
    let mode = found.mode() & 0o777;
    if mode & OTHERS != 0 || found.uid() != geteuid().as_raw() {
        return Err(HandoffError::Open {
            folder: folder.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let folder = std::env::temp_dir().join(format!("segue-peer-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let check = |mode| {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
            check_folder(&folder.join("handoff.sock"))
        };
        check(0o700).unwrap();
        for mode in [0o701, 0o710, 0o750, 0o755, 0o770] {
            let error = check(mode).unwrap_err();
            assert!(
                error.to_string().contains(&format!("mode {mode:o}")),
                "{error}"
            );
            let hint = error.hint().unwrap();
            assert!(hint.starts_with("chmod 700 "), "{hint}");
        }
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn who_has_ended_is_told_from_who_has_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let peer = Peer::process(pid);
        assert!(!peer.ends_within(Duration::ZERO), "it runs");
        assert!(peer.kill());
        child.wait().unwrap();
        assert!(peer.has_died());
        let this = Peer::process(rustix::process::getpid());
        assert!(!this.kill(), "never this very process");
    }
}
