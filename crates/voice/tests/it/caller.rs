//! The caller against agents unlike ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use segue_voice::agent::CALL_ID_HEADER;
use segue_voice::caller::{CallEnd, CallPlan, CallReport, call};
use segue_voice::clips::Clip;
use segue_voice::twilio::{Mark, Media, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::{PATIENCE, Running};

type Socket = WebSocketStream<TcpStream>;

/// One call, for one greeting, to an agent that does as `talk` does.
async fn call_to<F: Future<Output = ()>>(talk: impl FnOnce(Socket) -> F) -> CallReport {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut plan = CallPlan::new(&format!("ws://{address}/{{call}}"), "CA1", 0);
    plan.turns.clear();
    plan.say_bye = false;
    let agent = async {
        let (stream, _) = listener.accept().await.expect("a caller");
        talk(accept_async(stream).await.expect("a handshake")).await;
    };
    let both = async { tokio::join!(call(&plan), agent) };
    timeout(PATIENCE, both).await.expect("the call ends").0
}

async fn say(socket: &mut Socket, message: Message) {
    let sent = socket.send(Frame::text(message.to_json())).await;
    sent.expect("the caller listens");
}

fn media(bytes: &[u8]) -> Message {
    let payload = STANDARD.encode(bytes);
    Message::Media {
        stream_sid: "MZCA1".to_owned(),
        media: Media { payload },
    }
}

fn mark() -> Message {
    Message::Mark {
        stream_sid: "MZCA1".to_owned(),
        mark: Mark {
            name: "said".to_owned(),
        },
    }
}

#[tokio::test]
async fn a_sentence_sent_at_once_is_heard_at_its_own_pace() {
    let report = call_to(|mut socket| async move {
        // All in one message, no silence after it, as agents do that leave pacing to the provider.
        say(&mut socket, media(Clip::Greeting.ulaw())).await;
        say(&mut socket, mark()).await;
        let (mut frames, mut frames_to_mark) = (0, None);
        while let Some(Ok(frame)) = socket.next().await {
            match frame.to_text().map(Message::parse) {
                Ok(Ok(Message::Media { .. })) => frames += 1,
                Ok(Ok(Message::Mark { .. })) => frames_to_mark = Some(frames),
                _ => {}
            }
        }
        // The greeting lasts three seconds, so 150 frames of 20 ms.
        assert!(
            frames_to_mark.is_some_and(|frames| frames > 120),
            "{frames_to_mark:?}"
        );
    })
    .await;
    assert_eq!(report.end, CallEnd::HungUp);
    assert!(report.greeting.is_some_and(|greeting| greeting.heard));
}

#[tokio::test]
async fn the_code_of_a_close_is_told() {
    let report = call_to(|mut socket| async move {
        let close = CloseFrame {
            code: 1012.into(),
            reason: "restart".into(),
        };
        socket.close(Some(close)).await.expect("the caller listens");
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    assert_eq!(report.end, CallEnd::Remote { code: Some(1012) });
}

#[tokio::test]
async fn nonsense_does_not_end_a_call() {
    let report = call_to(|mut socket| async move {
        for text in [
            "",
            "{}",
            "[1]",
            r#"{"event":"media","media":{"payload":"%%"}}"#,
        ] {
            socket
                .send(Frame::text(text))
                .await
                .expect("the caller listens");
        }
        socket
            .send(Frame::binary(vec![0; 9]))
            .await
            .expect("the caller listens");
        say(&mut socket, media(Clip::Greeting.ulaw())).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    assert_eq!(report.end, CallEnd::HungUp);
    assert!(report.greeting.is_some_and(|greeting| greeting.heard));
}

/// What a call with these headers asks for, line by line, and how it ends when it is refused.
async fn asked(headers: &[(&str, &str)]) -> (Vec<String>, CallEnd) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut plan = CallPlan::new(&format!("ws://{address}/ws/{{call}}"), "CA1", 0);
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    plan.headers = headers.iter().map(owned).collect();
    let agent = async {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a whole head"));
        }
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("the caller listens");
        let head = String::from_utf8(head).expect("a head is text");
        let head = head.replace(&address.to_string(), "ADDRESS");
        head.lines().map(str::to_ascii_lowercase).collect()
    };
    let both = async { tokio::join!(agent, call(&plan)) };
    let (lines, report): (Vec<String>, CallReport) =
        timeout(PATIENCE, both).await.expect("the call ends");
    (lines, report.end)
}

#[tokio::test]
async fn a_host_replaces_that_of_the_url_and_other_headers_are_added() {
    let hosts = |lines: &[String]| -> Vec<String> {
        let hosts = lines.iter().filter(|line| line.starts_with("host:"));
        hosts.cloned().collect()
    };
    let (lines, end) = asked(&[]).await;
    assert_eq!(end, CallEnd::Refused { status: 404 });
    assert_eq!(hosts(&lines), ["host: address"]);
    let headers = [("x-a", "1"), ("hOsT", "calls.example.com"), ("X-A", "2")];
    let (lines, end) = asked(&headers).await;
    assert_eq!(end, CallEnd::Refused { status: 404 });
    assert_eq!(lines[0], "get /ws/ca1 http/1.1");
    assert_eq!(hosts(&lines), ["host: calls.example.com"], "{lines:?}");
    for added in ["x-a: 1", "x-a: 2"] {
        assert!(lines.iter().any(|line| line == added), "{lines:?}");
    }
}

#[tokio::test]
async fn without_anybody_to_trust_there_is_no_tls_call() {
    for (url, why) in [
        ("wss://127.0.0.1:9/", "nobody is trusted for wss://"),
        ("http://127.0.0.1:9/", "only ws:// and wss:// can be called"),
    ] {
        let report = call(&CallPlan::new(url, "CA1", 0)).await;
        let error = why.to_owned();
        let connected = false;
        assert_eq!(report.end, CallEnd::Failed { error, connected });
    }
}

#[tokio::test]
async fn the_gateways_id_overrules_the_callers() {
    let log = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("overruled.jsonl");
    let _ = std::fs::remove_file(&log);
    let agent = Running::start_with("drop:0", Some(log.clone())).await;
    let mut plan = CallPlan::new(&agent.url(), "CA1", 0);
    plan.headers
        .push((CALL_ID_HEADER.to_owned(), "G1".to_owned()));
    call(&plan).await;
    agent.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        (lines[0]["event"].as_str(), lines[0]["call"].as_str()),
        (Some("call.started"), Some("G1"))
    );
    assert_eq!(lines[0]["pid"], std::process::id());
    assert_eq!(
        (lines[1]["by"].as_str(), lines[1]["code"].as_u64()),
        (Some("worker"), None)
    );
}
