//! Tasks that end when told.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Waits until a task is told to stop. Holds no lock when it returns.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means that the process ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A task that runs until it is told to stop.
pub(crate) struct Stoppable {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stoppable {
    pub(crate) fn start<F>(make: impl FnOnce(watch::Receiver<bool>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(make(stop.subscribe()));
        Self { stop, task }
    }

    /// Tells it, waits, and cuts it off when patience ends.
    pub(crate) async fn stop(self, patience: Duration) {
        self.stop.send_replace(true);
        let mut task = self.task;
        if timeout(patience, &mut task).await.is_err() {
            task.abort();
            // Its only outcome is that it was aborted.
            let _ = task.await;
        }
    }
}
