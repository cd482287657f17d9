//! Which release and worker a call gets.

use segue_core::spec::{OnRollback, RuleWhen, TargetRule};
use segue_core::split::{Share, Split};

use crate::support::agent::{Agent, Manner};
use crate::support::rig::Rig;
use crate::support::soon;
use crate::support::table::{TOKEN, release, table};
use crate::support::ws::{ACCEPT, Ws, call, call_head, exchange, upgrade};

/// The release that took the last call, as its worker was told.
fn told(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(": ")?.1.to_owned())
}

impl Rig {
    /// Makes a call and says which release got it.
    async fn release_of(&self, target: &str, headers: &str) -> (String, Ws<tokio::net::TcpStream>) {
        let before = (self.v1.heads().len(), self.v2.heads().len());
        let call = call(self.gateway.addr, target, headers).await;
        let after = (self.v1.heads().len(), self.v2.heads().len());
        let (label, head) = match (after.0 - before.0, after.1 - before.1) {
            (1, 0) => ("v1", self.v1.heads().pop()),
            (0, 1) => ("v2", self.v2.heads().pop()),
            other => panic!("{other:?}"),
        };
        let head = head.unwrap();
        assert_eq!(told(&head, "X-Segue-Release").as_deref(), Some(label));
        (label.to_owned(), call)
    }
}

async fn end(mut call: Ws<tokio::net::TcpStream>) {
    call.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end of a call", call.next()).await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_sticks_and_new_calls_go_by_the_new_table() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let (label, first) = rig.release_of("/ws/a", "").await;
    assert_eq!(label, "v1");
    assert_eq!(
        told(&rig.v1.heads()[0], "X-Segue-Call-Id").as_deref(),
        Some("a")
    );
    assert_eq!(told(&rig.v1.heads()[0], "X-Segue-Resume"), None);

    rig.controller.install(rig.table(2, "v2")).await;
    assert_eq!(rig.release_of("/ws/b", "").await.0, "v2");
    assert_eq!(
        rig.release_of("/ws/a", "").await.0,
        "v1",
        "a second connection"
    );
    end(first).await;
    let (label, again) = rig.release_of("/ws/a", "").await;
    assert_eq!(label, "v1", "a reconnect to a draining release");
    let head = rig.v1.heads().pop().unwrap();
    assert_eq!(told(&head, "X-Segue-Resume").as_deref(), Some("true"));
    end(again).await;

    // Rolled back, and the agent wants such calls moved.
    let mut moving = rig.table(3, "v2");
    moving.on_rollback = OnRollback::Move;
    moving.rolled_back.insert(release("v1"));
    rig.controller.install(moving).await;
    assert_eq!(rig.release_of("/ws/a", "").await.0, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn split_rules_and_overrides() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut ramp = rig.table(2, "v1");
    ramp.split = Split::ramp(release("v2"), Share(5_000), release("v1"));
    for route in ramp.releases.values_mut() {
        route.takes_new_calls = true;
    }
    ramp.ingress.rules.push(TargetRule {
        when: RuleWhen::Header {
            name: "x-beta".to_owned(),
            equals: Some("1".to_owned()),
        },
        release: "v2".to_owned(),
    });
    rig.controller.install(ramp).await;
    let mut by_split = [0, 0];
    for number in 0..40 {
        let (label, _) = rig.release_of(&format!("/ws/split-{number}"), "").await;
        by_split[usize::from(label == "v2")] += 1;
        let target = format!("/ws/beta-{number}");
        let (label, _) = rig.release_of(&target, "X-Beta: 1\r\n").await;
        assert_eq!(label, "v2");
    }
    assert!(by_split[0] > 5 && by_split[1] > 5, "{by_split:?}");

    let token = format!("X-Segue-Override-Token: {TOKEN}\r\n");
    for (name, label) in [("v1", "v1"), ("v2", "v2"), (&release("v2").short(), "v2")] {
        for number in 0..3 {
            let target = format!("/ws/override-{name}-{number}");
            let headers = format!("X-Segue-Override: {name}\r\n{token}");
            let (got, _) = rig.release_of(&target, &headers).await;
            assert_eq!(got, label);
            assert!(
                !rig.v1.heads().concat().contains("Override"),
                "the token stays here"
            );
        }
    }
    let counts = rig.counts(release("v2"), |counts| counts.live == 0).await;
    let taken = rig.v2.heads().len() as u64;
    assert_eq!(
        counts.totals.started,
        taken - 6,
        "overrides are outside of the totals"
    );

    let wrong = upgrade(
        "/ws/x",
        "X-Segue-Override: v2\r\nX-Segue-Override-Token: no\r\n",
    );
    let answer = exchange(rig.gateway.addr, wrong.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let unknown = upgrade("/ws/x", &format!("X-Segue-Override: v9\r\n{token}"));
    let answer = exchange(rig.gateway.addr, unknown.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minted_id_comes_back_as_a_cookie() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let (head, _first) = call_head(rig.gateway.addr, "/talk", "").await;
    let minted = told(&rig.v1.heads()[0], "X-Segue-Call-Id").unwrap();
    let cookie = told(&head, "Set-Cookie").unwrap();
    let expected = format!("segue_call={minted}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax");
    assert_eq!(cookie, expected);
    rig.controller.install(rig.table(2, "v2")).await;
    let headers = format!("Cookie: segue_call={minted}\r\n");
    assert_eq!(rig.release_of("/talk", &headers).await.0, "v1");
    let (head, _named) = call_head(rig.gateway.addr, "/ws/mine", "").await;
    assert_eq!(
        told(&head, "Set-Cookie"),
        None,
        "whoever names the call keeps its name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_of_the_same_release_is_tried_and_no_other_release() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut dead = Agent::start(Manner::Echo).await;
    dead.stop_listening().await;
    // "a" sorts first, so it is chosen first.
    let workers = [
        ("a", "v1", dead.addr),
        ("b", "v1", rig.v1.addr),
        ("c", "v2", rig.v2.addr),
    ];
    rig.controller.install(table(2, "v1", &workers)).await;
    for number in 0..6 {
        assert_eq!(rig.release_of(&format!("/ws/{number}"), "").await.0, "v1");
    }
    let workers = [("a", "v1", dead.addr), ("c", "v2", rig.v2.addr)];
    rig.controller.install(table(3, "v1", &workers)).await;
    let answer = exchange(rig.gateway.addr, upgrade("/ws/x", "").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nRetry-After: "), "{answer}");
    let counts = rig
        .counts(release("v1"), |counts| counts.totals.errors == 1)
        .await;
    assert_eq!(counts.totals.started, 7);
    assert_eq!(rig.v2.heads().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_found_by_host_and_longest_path() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let mut hosted = rig.table(2, "v1");
    hosted.ingress.hosts = vec!["desk.example".to_owned()];
    rig.controller.install(hosted).await;
    let mut other = rig.table(1, "v2");
    other.agent = "night".parse().unwrap();
    other.ingress.hosts = vec!["desk.example".to_owned()];
    other.ingress.path = "/night".to_owned();
    rig.controller.publish(other);
    let night = "night".parse().unwrap();
    let presence = rig.controller.presence.wait_for(|presence| {
        presence
            .as_ref()
            .is_some_and(|p| p.agents.contains_key(&night))
    });
    soon("the second agent", presence).await.unwrap();
    assert_eq!(rig.release_of("/ws/1", "").await.0, "v1");
    assert_eq!(rig.release_of("/night/ws/1", "").await.0, "v2");
    assert_eq!(rig.release_of("/nightly/ws/1", "").await.0, "v1");
    let elsewhere = b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let answer = exchange(rig.gateway.addr, elsewhere).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("hint: "), "{answer}");
    let same = b"GET http://DESK.example:8080/ HTTP/1.1\r\nHost: desk.EXAMPLE:8080\r\n\r\n";
    let answer = exchange(rig.gateway.addr, same).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_fast_gets_no_calls_while_another_one_answers() {
    let good = format!(
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    for answer in [
        "HTTP/1.1 500 Oh\r\n\r\n".to_owned(),
        good.replace("s3pP", "xxxx"),
        "nonsense\r\n\r\n".to_owned(),
        String::new(),
    ] {
        let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
        let bad = Agent::start(Manner::Answer(answer.clone())).await;
        // "a" sorts first, and holds the fewest calls for ever.
        let workers = [("a", "v1", bad.addr), ("b", "v1", rig.v1.addr)];
        rig.controller.install(table(2, "v1", &workers)).await;
        let mut calls = Vec::new();
        for number in 0..10 {
            calls.push(rig.release_of(&format!("/ws/{number}"), "").await);
        }
        let counts = rig.counts(release("v1"), |counts| counts.live == 10).await;
        assert_eq!((counts.totals.started, counts.totals.errors), (10, 0));
        let asked = bad.heads().len();
        assert!((1..10).contains(&asked), "{answer:?}: asked {asked} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_refuses_is_refused_once() {
    let answer = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let strict = Agent::start(Manner::Answer(answer.to_owned())).await;
    let workers = [("a", "v1", strict.addr), ("b", "v1", rig.v1.addr)];
    rig.controller.install(table(2, "v1", &workers)).await;
    for number in 1..=5 {
        let request = upgrade(&format!("/ws/{number}"), "");
        let answer = exchange(rig.gateway.addr, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert_eq!(strict.heads().len(), number);
    }
    assert_eq!(rig.v1.heads().len(), 0);
    let counts = rig
        .counts(release("v1"), |counts| counts.totals.started == 5)
        .await;
    assert_eq!((counts.live, counts.totals.errors), (0, 0), "no fault");
}
