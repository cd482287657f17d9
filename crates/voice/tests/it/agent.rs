//! The agent by itself: its HTTP side, its log and its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use segue_voice::agent::{AgentConfig, CALL_ID_HEADER, serve_on};
use segue_voice::caller::{CallEnd, CallPlan, call};
use segue_voice::calllog::CallLog;
use segue_voice::fault::Fault;
use segue_voice::judge::judge_dir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Running;

async fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the agent listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers and closes");
    answer
}

/// An empty directory of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the target directory is ours");
    dir
}

#[tokio::test]
async fn health_and_webhook_share_the_port_of_the_calls() {
    let agent = Running::start("none").await;
    let health = http(agent.address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.contains(r#""release":"v1""#), "{health}");
    let webhook =
        "POST /twilio HTTP/1.1\r\nHost: a.example\r\nContent-Length: 11\r\n\r\nCallSid=CA1";
    let twiml = http(agent.address, webhook).await;
    assert!(
        twiml.contains(r#"<Stream url="wss://a.example/ws/CA1"/>"#),
        "{twiml}"
    );
    let nothing = http(agent.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_may_never_be_ready_or_not_start() {
    let agent = Running::start("never-ready").await;
    let health = http(agent.address, "GET /healthz HTTP/1.1\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    agent.stop().await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = AgentConfig::new(listener.local_addr().unwrap(), "v1", "w1");
    config.fault = Fault::Crash;
    assert!(
        serve_on(config, listener, std::future::pending())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_stopped_agent_finishes_its_calls_and_both_logs_agree() {
    let dir = scratch("stopped");
    let agent = Running::start_with("none", Some(dir.join("workers.jsonl"))).await;
    let mut plan = CallPlan::new(&agent.url(), "CA1", 4_000);
    plan.log = Arc::new(CallLog::open(&dir.join("callers.jsonl")).unwrap());
    plan.headers
        .push((CALL_ID_HEADER.to_owned(), "CA1".to_owned()));
    let mut started = plan.clone();
    started.call_id = "CA2".to_owned();
    started.headers.clear();
    let address = agent.address;
    let (first, second, ()) = tokio::join!(call(&plan), call(&started), async {
        // Both calls are on when the agent says so.
        while !http(address, "GET /healthz HTTP/1.1\r\n\r\n")
            .await
            .contains(r#""calls":2"#)
        {
            tokio::task::yield_now().await;
        }
        agent.stop().await;
        assert!(
            TcpStream::connect(address).await.is_err(),
            "takes no more calls"
        );
    });
    assert_eq!((first.end, second.end), (CallEnd::HungUp, CallEnd::HungUp));
    let verdict = judge_dir(&dir).unwrap();
    // Nobody made a smoke call here, and that is all there is to say against it.
    assert_eq!(verdict.problems_found, 2, "{verdict:?}");
    assert_eq!((verdict.started, verdict.reached_unproven), (2, 2));
    assert_eq!(verdict.completed, 2);
    assert_eq!(verdict.by_release["v1"], 2);
}

#[tokio::test]
async fn a_dropped_call_is_told_by_both_sides() {
    let dir = scratch("dropped");
    let agent = Running::start_with("drop:500", Some(dir.join("workers-1.jsonl"))).await;
    let mut plan = CallPlan::new(&agent.url(), "CA1", 4_000);
    plan.log = Arc::new(CallLog::open(&dir.join("callers-1.jsonl")).unwrap());
    let report = call(&plan).await;
    agent.stop().await;
    assert_eq!(report.end, CallEnd::Remote { code: None });
    let verdict = judge_dir(&dir).unwrap();
    assert_eq!((verdict.started, verdict.dropped), (1, 1));
    assert!(!verdict.is_clean());
}
