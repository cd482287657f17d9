//! Workers that are barred by their membership: whoever else of their release is there goes first, and
//! nobody's call is lost for it.

use crate::rescue::{Rig, rescued_table};
use crate::support::ws::{exchange, upgrade};

/// The worker that is barred, as the fleet counts.
const BARRED: usize = 1;

/// Three workers of one release, and one of them is barred.
async fn rig() -> Rig {
    let mut rig = Rig::start(3).await;
    let mut table = rescued_table(2, &rig.fleet, &[0, 1, 2]);
    let barred = "w2".parse().unwrap();
    table.workers.get_mut(&barred).unwrap().barred = true;
    rig.controller.install(table).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_rescued_by_who_is_not_barred_and_by_who_is_if_nobody_else_is_left() {
    let mut rig = rig().await;
    let mut talking = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let (caller, taken) = rig.talk(id).await;
        assert_ne!(taken.worker, BARRED, "new calls");
        talking.push((caller, taken));
    }
    let (_caller, first) = talking.remove(0);
    let at = first.worker;
    drop(first);
    let next = rig.rescued().await;
    // It has two calls already, and the barred one has none.
    assert_eq!(next.worker, if at == 0 { 2 } else { 0 });

    for worker in [0, 2] {
        rig.fleet.stop(worker).await;
    }
    drop(next);
    assert_eq!(rig.rescued().await.worker, BARRED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_call_that_reaches_nobody_is_not_tried_at_who_is_barred() {
    let mut rig = rig().await;
    rig.fleet.stop(0).await;
    // It goes to either of the two, and then to the other one.
    let mut talking = Vec::new();
    for id in ["a", "b", "c"] {
        let (caller, taken) = rig.talk(id).await;
        assert_eq!(taken.worker, 2);
        talking.push((caller, taken));
    }
    rig.fleet.stop(2).await;
    for id in ["d", "e"] {
        let got = exchange(
            rig.gateway.addr,
            upgrade(&format!("/ws/{id}"), "").as_bytes(),
        )
        .await;
        assert!(got.starts_with("HTTP/1.1 503 "), "{got}");
    }
    assert!(rig.fleet.is_idle());
}
