//! Shards that accept callers by themselves, until they are told to stop.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::front::Front;

use super::shard::{Command, Listen};
use super::{Relay, Wake};

/// The way to a shard.
#[derive(Clone)]
pub(super) struct Mailbox {
    commands: Sender<Command>,
    wake: Arc<Wake>,
}

impl Mailbox {
    pub(super) fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|unsent| unsent.0)?;
        self.wake.wake();
        Ok(())
    }

    /// How many calls it has.
    pub(super) fn load(&self) -> usize {
        self.wake.load.load(Ordering::Relaxed)
    }
}

/// Lasts as long as the shards are to accept.
pub(crate) struct Listening(Vec<Mailbox>);

impl Relay {
    /// Has the shards accept callers at this listener, and set up ordinary calls by themselves.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub(crate) fn listen(
        &self,
        listener: &TcpListener,
        front: &Arc<Front>,
    ) -> io::Result<Listening> {
        let mailbox = |shard: &super::Handle| Mailbox {
            commands: shard.commands.clone(),
            wake: Arc::clone(&shard.wake),
        };
        let shards: Vec<Mailbox> = self.shards.iter().map(mailbox).collect();
        let listen = Arc::new(Listen {
            listener: listener.try_clone()?,
            front: Arc::clone(front),
            shards: shards.clone(),
        });
        for shard in &shards {
            // A shard that is gone accepts nobody.
            let _ = shard.send(Command::Listen(Arc::clone(&listen)));
        }
        Ok(Listening(shards))
    }
}

#[cfg(test)]
impl Listening {
    /// How many calls each shard has.
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.0.iter().map(Mailbox::load).collect()
    }
}

impl Listening {
    /// Tells the shards, and does not wait: whatever they are told next comes behind it.
    pub(crate) fn stop(mut self) -> Stopping {
        let (reply, answers) = channel();
        // Not once more when this is dropped: they may have been told to accept again by then.
        for shard in self.0.drain(..) {
            // One that is gone drops its sender.
            let _ = shard.send(Command::Unlisten(Some(reply.clone())));
        }
        Stopping(answers)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for shard in &self.0 {
            let _ = shard.send(Command::Unlisten(None));
        }
    }
}

/// Shards that were told to stop.
pub(crate) struct Stopping(Receiver<()>);

impl Stopping {
    /// Nobody is accepted any more once this returns, and who was and is no call yet is the
    /// front's. Blocks for a turn of each shard.
    pub(crate) fn wait(self) {
        self.0.into_iter().for_each(drop);
    }
}
