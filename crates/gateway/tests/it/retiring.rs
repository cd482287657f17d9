//! Releases that wind down: whoever speaks to their workers is told, and a release that was handed
//! off keeps only the calls that stand.

use segue_core::presence::ReleaseCounts;
use segue_core::table::RoutingTable;

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::soon;
use crate::support::table::{TOKEN, release};
use crate::support::ws::{BINARY, Ws, call, call_head, exchange};

const TOLD: &str = "X-Segue-Retiring: true\r\n";

/// `v2` serves, and `v1` winds down.
fn retiring(rig: &Rig, epoch: u64) -> RoutingTable {
    let mut table = rig.table(epoch, "v2");
    table.releases.get_mut(&release("v1")).unwrap().retiring = true;
    table
}

fn says_retiring(head: &str) -> bool {
    let head = head.to_lowercase().replace('_', "-");
    head.contains("x-segue-retiring")
}

async fn hang_up(mut call: Ws<tokio::net::TcpStream>) {
    call.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end of a call", call.next()).await {}
}

fn start(call: &str, headers: &str) -> String {
    format!("GET /start?call_id={call} HTTP/1.1\r\nHost: desk.example\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_callers_of_a_retiring_release_are_told_and_nobody_else() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let addr = rig.gateway.addr;
    let forged = "X-Segue-Retiring: forged\r\nX_Segue_Retiring: forged\r\n";
    let (answer, before) = call_head(addr, "/ws/a", forged).await;
    assert!(!says_retiring(&answer), "{answer}");
    assert!(!says_retiring(&rig.v1.heads()[0]), "from outside");
    hang_up(before).await;
    let hooked = exchange(addr, start("hooked", "").as_bytes()).await;
    assert!(hooked.starts_with("HTTP/1.1 200 "), "{hooked}");
    assert!(!says_retiring(&hooked), "{hooked}");

    let table = retiring(&rig, 2);
    rig.controller.install(table).await;
    let (answer, again) = call_head(addr, "/ws/a", forged).await;
    assert!(answer.contains(TOLD), "a reconnect: {answer}");
    let head = rig.v1.heads().pop().unwrap();
    assert!(head.contains(TOLD), "{head}");
    assert!(!head.contains("forged"), "{head}");
    hang_up(again).await;

    let over = format!("X-Segue-Override: v1\r\nX-Segue-Override-Token: {TOKEN}\r\n");
    let (answer, smoke) = call_head(addr, "/ws/smoke", &over).await;
    assert!(answer.contains(TOLD), "an override: {answer}");
    assert!(rig.v1.heads().pop().unwrap().contains(TOLD));
    drop(smoke);

    let hooked = exchange(addr, start("hooked", forged).as_bytes()).await;
    assert!(hooked.contains(TOLD), "a plain request: {hooked}");
    let head = rig.v1.heads().pop().unwrap();
    assert!(head.contains(TOLD) && !head.contains("forged"), "{head}");
    assert_eq!(rig.v1.heads().len(), 5);

    let (answer, _new) = call_head(addr, "/ws/b", forged).await;
    assert!(!says_retiring(&answer), "{answer}");
    assert!(!says_retiring(&rig.v2.heads()[0]), "the current release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cannot_say_it_for_us() {
    let answer = "HTTP/1.1 404 No\r\nX-Segue-Retiring: true\r\nContent-Length: 0\r\n\r\n";
    let rig = Rig::start(Manner::Answer(answer.to_owned()), Manner::Echo).await;
    let got = exchange(rig.gateway.addr, start("a", "").as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 404 "), "{got}");
    assert!(!says_retiring(&got), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handed_off_release_keeps_live_calls_and_loses_reconnects() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let addr = rig.gateway.addr;
    let mut stays = call(addr, "/ws/stays", "").await;
    let leaves = call(addr, "/ws/leaves", "").await;
    let mut table = retiring(&rig, 2);
    table.handed_off.insert(release("v1"));
    rig.controller.install(table).await;

    stays.send(BINARY, b"still here").await.unwrap();
    let back = soon("an echo", stays.next()).await.unwrap();
    assert_eq!(back, Some((BINARY, b"still here".to_vec())));
    // Its first connection stands, so a second one belongs beside it.
    let beside = call(addr, "/ws/stays", "").await;
    assert_eq!((rig.v1.heads().len(), rig.v2.heads().len()), (3, 0));
    drop(beside);

    hang_up(leaves).await;
    rig.counts(release("v1"), |counts| counts.pinned == 1).await;
    let (answer, _moved) = call_head(addr, "/ws/leaves", "").await;
    assert!(!says_retiring(&answer), "{answer}");
    assert_eq!((rig.v1.heads().len(), rig.v2.heads().len()), (3, 1));
    let head = &rig.v2.heads()[0];
    assert!(head.contains("X-Segue-Resume: true\r\n"), "{head}");
    // It is the other release's now.
    let gone = |counts: &ReleaseCounts| (counts.live, counts.pinned) == (1, 0);
    rig.counts(release("v1"), gone).await;
    // And stays there.
    rig.controller.install(rig.table(3, "v1")).await;
    let _again = call(addr, "/ws/leaves", "").await;
    assert_eq!(rig.v2.heads().len(), 2);
}
