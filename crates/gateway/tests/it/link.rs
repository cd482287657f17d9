//! The link to the controller.

use segue_core::link::{ToController, ToGateway};
use segue_core::presence::AgentPresence;
use segue_core::table::Epoch;

use crate::support::agent::Manner;
use crate::support::controller::Controller;
use crate::support::gateway::{Gateway, config};
use crate::support::rig::Rig;
use crate::support::soon;
use crate::support::table::{desk, release};
use crate::support::ws::{BINARY, call};

#[tokio::test(flavor = "multi_thread")]
async fn it_reconnects_and_refuses_smaller_epochs() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    rig.controller.install(rig.table(7, "v2")).await;
    // A controller that comes back from an old backup.
    let old = rig.table(3, "v1");
    let (dir, v2) = (rig.dir, rig.v2);
    drop(rig.controller);
    let mut controller = Controller::start(dir.path(), old);
    let report = controller
        .report("a report to the new controller", |_| true)
        .await;
    assert_eq!(report.epoch, Epoch(7));
    let _call = call(rig.gateway.addr, "/ws/a", "").await;
    assert_eq!(v2.heads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_the_last_tables_and_pins_go_on() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut ws = call(rig.gateway.addr, "/ws/a", "").await;
    ws.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    drop(ws);
    rig.counts(release("v1"), |counts| counts.pinned == 1).await;
    rig.controller.install(rig.table(2, "v2")).await;
    soon("the end of the gateway", rig.gateway.stop())
        .await
        .unwrap()
        .unwrap();
    let old = crate::support::table::table(1, "v1", &[("w1", "v1", rig.v1.addr)]);
    drop(rig.controller);

    let gateway = Gateway::start(config(rig.dir.path())).await;
    let _new = call(gateway.addr, "/ws/b", "").await;
    assert_eq!(rig.v2.heads().len(), 1, "by the last table");
    let _pinned = call(gateway.addr, "/ws/a", "").await;
    assert_eq!(rig.v1.heads().len(), 2, "by its pin");
    let mut controller = Controller::start(rig.dir.path(), old);
    let report = controller.report("a report", |_| true).await;
    assert_eq!(report.epoch, Epoch(2), "smaller than the one on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut ws = call(rig.gateway.addr, "/ws/a", "").await;
    let _second = call(rig.gateway.addr, "/ws/b", "").await;
    ws.send(BINARY, b"1234").await.unwrap();
    soon("an echo", ws.next()).await.unwrap();
    // A caller may hear the echo before its bytes are counted.
    let first = soon("frames with their headers", async {
        loop {
            let question = ToGateway::ListCalls {
                request: 9,
                agent: Some(desk()),
                limit: 1,
            };
            let ToController::Calls { request, calls } = rig.controller.ask(question).await else {
                panic!("another answer");
            };
            assert_eq!((request, calls.len()), (9, 1));
            if (calls[0].bytes_in, calls[0].bytes_out) == (10, 6) {
                return calls[0].clone();
            }
        }
    });
    let first = first.await;
    assert_eq!((first.call.as_str(), first.state.as_str()), ("a", "live"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_could_not_be_written_is_asked_for_again() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let (state, aside) = (rig.dir.path().join("gateway"), rig.dir.path().join("aside"));
    std::fs::rename(&state, &aside).unwrap();
    // Not even root writes below a file.
    std::fs::write(&state, "in the way").unwrap();
    rig.controller.publish(rig.table(2, "v2"));
    // The second link from here on was made after one that could not keep the table.
    let links = *rig.controller.links.borrow();
    let again = rig.controller.links.wait_for(|now| *now >= links + 2);
    soon("links anew", again).await.unwrap();
    let report = rig.controller.report("a report", |_| true).await;
    assert_eq!(report.epoch, Epoch(1), "not acknowledged");

    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&aside, &state).unwrap();
    let installed = |report: &AgentPresence| report.epoch == Epoch(2);
    rig.controller.report("the table", installed).await;
    let _call = call(rig.gateway.addr, "/ws/a", "").await;
    assert_eq!(rig.v2.heads().len(), 1);
}
