//! Peers that do not behave.

use segue_core::link::CallInfo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::{Directory, PATIENCE, Running, spec};

/// Says lines, and waits to be cut off; answers what was heard.
async fn is_dropped(directory: &Directory, lines: &[Value]) -> String {
    let mut stream = UnixStream::connect(directory.state().control_socket())
        .await
        .unwrap();
    for line in lines {
        let text = line
            .as_str()
            .map_or_else(|| line.to_string(), str::to_owned);
        stream
            .write_all(format!("{text}\n").as_bytes())
            .await
            .unwrap();
    }
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard))
        .await
        .expect("it is cut off");
    String::from_utf8(heard).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_do_not_speak_our_language_are_dropped() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let hello = json!({ "type": "hello", "version": 1, "gateway": "gw-1", "pid": 1 });
    let newer = json!({ "type": "hello", "version": 2, "gateway": "gw-1", "pid": 1 });
    let other = json!({ "type": "presence", "gateway": "gw-2", "incarnation": "a", "sequence": 1, "agents": {} });
    assert!(
        is_dropped(&directory, &[newer])
            .await
            .contains("\"version\":1")
    );
    is_dropped(&directory, &[json!("GET / HTTP/1.1")]).await;
    is_dropped(&directory, std::slice::from_ref(&other)).await;
    is_dropped(&directory, &[hello.clone(), other]).await;
    is_dropped(&directory, &[hello.clone(), hello.clone()]).await;
    is_dropped(&directory, &[hello, json!("not json")]).await;
    let known = crate::eventually("who greeted to be known", async || {
        let known = running.client.status().await.gateways;
        (!known.is_empty()).then_some(known)
    })
    .await;
    let names: Vec<_> = known.into_iter().map(|known| known.gateway).collect();
    assert_eq!(
        names,
        ["gw-1".parse().unwrap()],
        "only who greeted is known"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let state = directory.state();
    for (path, mode) in [
        (state.control_socket(), 0o600),
        (state.path().join("run"), 0o700),
        (state.api_token(), 0o600),
        (state.override_token(), 0o600),
        (state.journal(), 0o600),
        (state.path().join("journal.db-wal"), 0o600),
    ] {
        let is = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, mode, "{}", path.display());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_and_who_does_not_answer_is_named() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let good = Gateway::start(&directory.state(), "gw-1");
    let view = client.bring_in("v1").await;
    let call = |name: &str, since: u64| CallInfo {
        call: name.parse().unwrap(),
        agent: crate::desk(),
        release: view.releases[0].id,
        worker: "w".parse().unwrap(),
        epoch: view.epoch,
        since: segue_core::time::Timestamp(since),
        state: "live".to_owned(),
        reason: "split".to_owned(),
        bytes_in: 1,
        bytes_out: 2,
    };
    good.mind.lock().unwrap().calls = vec![call("b", 2), call("a", 1), call("c", 3)];
    let mute = Gateway::start(&directory.state(), "gw-2");
    mute.mind.lock().unwrap().mute = true;
    crate::eventually("the mute one", async || {
        (client.status().await.gateways.len() == 2).then_some(())
    })
    .await;
    let answer = client
        .ask("GET", "/v1/agents/desk/calls?limit=2", None)
        .await
        .json();
    let names: Vec<_> = answer["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["call"])
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(answer["unknown"], json!(["gw-2"]));
    running.stop().await;
}
