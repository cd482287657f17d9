//! What a socket of a call is watched for.

use rustix::event::epoll::EventFlags;

/// See the module. Each call has two, so it is small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Interest {
    #[default]
    Nothing,
    Read,
    Write,
    Both,
}

impl Interest {
    pub(super) fn new(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::Both,
        }
    }

    pub(super) fn flags(self) -> EventFlags {
        match self {
            Self::Nothing => EventFlags::empty(),
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}
