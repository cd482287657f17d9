//! What one agent's workers may ask for.

use tokio_tungstenite::tungstenite::Message;

use crate::control::{AGENT, Control, Dispatcher};
use crate::dispatcher::{exchange, quick};
use crate::sim::{Socket, connect};
use crate::wire::FromWorker;

/// As the dispatcher has them.
const PERMISSIONS_BYTES_MAX: usize = 1_024;

/// Registers with these permissions: its connection, or the code and the reason of the refusal.
async fn register(dispatcher: &Dispatcher, permissions: Vec<u8>) -> Result<Socket, (u16, String)> {
    let mut register = dispatcher.plan("v1").register;
    register.permissions = Some(permissions);
    let mut socket = connect(&dispatcher.url).await.unwrap();
    let frame = Message::binary(FromWorker::Register(register).frame());
    match exchange(&mut socket, frame).await {
        Some(Ok(Message::Binary(_))) => Ok(socket),
        Some(Ok(Message::Close(Some(close)))) => Err((close.code.into(), close.reason.to_string())),
        other => panic!("expected an answer: {other:?}"),
    }
}

#[tokio::test]
async fn permissions_are_as_long_as_anybody_needs_and_no_longer() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let kept = register(&dispatcher, vec![0; PERMISSIONS_BYTES_MAX]).await;
    assert!(kept.is_ok(), "{kept:?}");
    let refused = register(&dispatcher, vec![0; PERMISSIONS_BYTES_MAX + 1]).await;
    let (code, reason) = refused.unwrap_err();
    assert_eq!(code, 1008);
    assert!(reason.contains("permissions"), "{reason}");
}

#[tokio::test]
async fn an_agent_has_few_registrations_at_the_server() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let limit = segue_core::dispatch::LINES_MAX;
    let alike = |number: usize| number.to_be_bytes().to_vec();
    let mut open = Vec::new();
    for number in 0..limit {
        open.push(register(&dispatcher, alike(number)).await.unwrap());
    }
    let (code, reason) = register(&dispatcher, alike(limit)).await.unwrap_err();
    assert_eq!(code, 1008);
    assert!(reason.contains(AGENT), "{reason}");
    // Whoever registers as others do is none of them.
    open.push(register(&dispatcher, alike(0)).await.unwrap());
    upstream.until_registered(AGENT, limit).await;
    let workers = dispatcher.running.as_ref().unwrap().workers();
    assert_eq!(workers.len(), limit + 1);
}
