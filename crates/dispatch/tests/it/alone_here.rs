//! One dispatcher for each state folder.

use std::sync::Arc;

use segue_dispatch::RunError;
use segue_dispatch::admit::Unsigned;

use crate::control::{AGENT, Control};
use crate::dispatcher::{quick, ready};
use crate::sim::Sim;
use crate::upstream::{Outcome, job};

#[tokio::test]
async fn a_second_dispatcher_leaves_the_files_of_the_first_alone() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let plan = dispatcher.plan("v1");
    let worker = Sim::start(&plan).await;
    ready(&upstream).await;
    let first = job(AGENT, "");
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    worker.assigned(&first.id).await;

    let mut config = control.config(&upstream.url());
    config.listen.set_port(0);
    let nobody = Unsigned { agents: [].into() };
    let second = segue_dispatch::start(config, Arc::new(nobody)).await;
    assert!(matches!(second, Err(RunError::Taken { .. })));

    // What happens since is still found by the next one.
    let second = job(AGENT, "");
    assert_eq!(upstream.launch(&second).await, Outcome::Assigned);
    worker.assigned(&second.id).await;
    assert_eq!(segue_dispatch::jobs_left(control.folder()).unwrap(), 2);
    dispatcher.kill();
    let _next = control.start(&upstream).await;
    control.live("v1", 2).await;
}
