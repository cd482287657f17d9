//! One connected gateway, from its greeting to its end.

use std::io;
use std::time::Duration;

use segue_core::link::{LINK_VERSION, ToController, ToGateway};
use segue_core::names::GatewayId;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::lines::{self, Line};
use super::outbox::Outbox;
use super::{Heard, Link};
use crate::clock;

/// Time to greet. It is a local process that has nothing else to do.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// Time to take what it is told. One that does not read is dropped, and may come back.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// The `type` of what a gateway keeps until it was read: [`ToController::Ended`] and
/// [`ToController::Events`]. They count also if something in them is not understood.
const BATCHES: [&str; 2] = ["ended", "events"];

pub(super) async fn serve(link: &Link, stream: UnixStream, heard: &mpsc::Sender<Heard>) {
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (BufReader::new(reader), writer);
    let (gateway, acknowledges) = match timeout(HELLO_MAX, greet(&mut reader, &mut writer)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return tracing::warn!(%error, "a gateway was turned away"),
        Err(_) => return tracing::warn!("a gateway was turned away: it did not greet"),
    };
    tracing::info!(%gateway, "gateway connected");
    // Before it gets a table by which it might take calls.
    if heard.send(Heard::Hello(gateway.clone())).await.is_err() {
        return;
    }
    let (number, outbox) = link.join(gateway.clone());
    let hears = acknowledges.then_some(&*outbox);
    let ended = tokio::select! {
        ended = listen(link, (number, hears), &gateway, &mut reader, heard) => ended,
        ended = tell(&outbox, &mut writer) => ended,
    };
    link.leave(number);
    match ended {
        Ok(()) => tracing::info!(%gateway, "gateway disconnected"),
        Err(error) => tracing::warn!(%gateway, %error, "gateway dropped"),
    }
}

/// Who it is, and whether it wants to know what was read.
async fn greet(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<(GatewayId, bool)> {
    let hello = ToGateway::Hello {
        version: LINK_VERSION,
        acknowledges: true,
    };
    lines::write(writer, &hello).await?;
    match lines::read(reader).await? {
        Some(Line::Message(ToController::Hello {
            version,
            gateway,
            acknowledges,
            ..
        })) if version == LINK_VERSION => Ok((gateway, acknowledges)),
        Some(Line::Message(ToController::Hello {
            version, gateway, ..
        })) => Err(bad(format!(
            "{gateway} speaks version {version} of the link, we speak {LINK_VERSION}"
        ))),
        _ => Err(bad("it did not greet".to_owned())),
    }
}

/// Reads until the gateway has gone. What it keeps until it was read is acknowledged by `hears`.
async fn listen(
    link: &Link,
    (number, hears): (u64, Option<&Outbox>),
    gateway: &GatewayId,
    reader: &mut BufReader<OwnedReadHalf>,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<()> {
    let mut batches = 0;
    while let Some(line) = lines::read(reader).await? {
        let is_batch = match &line {
            Line::Message(message) => matches!(
                message,
                ToController::Ended { .. } | ToController::Events { .. }
            ),
            // It is lost. It would be told again for ever, and hold up what comes behind it.
            Line::Unknown(unknown) => BATCHES.contains(&&*unknown.kind),
        };
        if let Line::Message(message) = line
            && !take(link, number, gateway, message, heard).await?
        {
            return Ok(());
        }
        if is_batch {
            batches += 1;
            if let Some(outbox) = hears {
                outbox.set_read(batches);
            }
        }
    }
    Ok(())
}

/// Passes on what the gateway said; `false`: nobody hears it any more.
async fn take(
    link: &Link,
    number: u64,
    gateway: &GatewayId,
    message: ToController,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<bool> {
    let said = match message {
        ToController::Presence(presence) if presence.gateway == *gateway => {
            let at = clock::now();
            Heard::Presence { at, presence }
        }
        ToController::Events { events, left_out } => {
            let gateway = gateway.clone();
            Heard::Events {
                gateway,
                events,
                left_out,
            }
        }
        ToController::Goodbye => Heard::Goodbye(gateway.clone()),
        ToController::Calls { request, calls } => {
            link.answer(number, request, calls);
            return Ok(true);
        }
        ToController::Ended { calls, .. } => {
            link.ended(calls);
            return Ok(true);
        }
        ToController::Workers { request, workers } => {
            link.answer_workers(number, request, workers);
            return Ok(true);
        }
        ToController::Presence(presence) => {
            return Err(bad(format!("it reports as {}", presence.gateway)));
        }
        ToController::Hello { .. } => return Err(bad("it greets twice".to_owned())),
    };
    Ok(heard.send(said).await.is_ok())
}

async fn tell(outbox: &Outbox, writer: &mut OwnedWriteHalf) -> io::Result<()> {
    loop {
        for message in outbox.take().await {
            timeout(WRITE_MAX, lines::write(writer, &message)).await??;
        }
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use segue_core::names::{AgentName, ReleaseId};
    use segue_core::plane::{PlaneEvent, Told};
    use segue_core::time::Timestamp;
    use tokio::io::AsyncBufReadExt as _;

    use super::*;

    /// How long anything here may take.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn event(at: u64) -> PlaneEvent {
        let agent: AgentName = "desk".parse().unwrap();
        let what = Told::MembershipRefused {
            document: "keys".to_owned(),
            reason: "rollback".to_owned(),
            message: String::new(),
        };
        PlaneEvent {
            at: Timestamp(at),
            agent,
            times: 1,
            what,
        }
    }

    fn events(at: u64) -> ToController {
        ToController::Events {
            events: vec![event(at)],
            left_out: 0,
        }
    }

    #[test]
    fn batches_are_known_by_their_type() {
        let (calls, left_out) = (Vec::new(), 0);
        for batch in [ToController::Ended { calls, left_out }, events(1)] {
            let kind = serde_json::to_value(&batch).unwrap()["type"].clone();
            assert!(BATCHES.contains(&kind.as_str().unwrap()), "{kind}");
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_not_understood_is_acknowledged() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (heard, mut hears) = mpsc::channel(16);
        let link = Link::default();
        let served = link.clone();
        tokio::spawn(async move { serve(&served, ours, &heard).await });
        let (reader, mut writer) = theirs.into_split();
        let hello = ToController::Hello {
            version: LINK_VERSION,
            gateway: "gw-1".parse().unwrap(),
            pid: 1,
            acknowledges: true,
        };
        lines::write(&mut writer, &hello).await.unwrap();
        // Of a later version: an event and an outcome that nobody here knows, and a type that is no batch.
        let mut event = serde_json::to_value(events(1)).unwrap();
        event["events"][0]["what"] = serde_json::json!({"type": "forecast"});
        for later in [
            event,
            serde_json::json!({"type": "ended", "calls": [{"outcome": "paused"}], "left_out": 0}),
            serde_json::json!({"type": "forecast"}),
        ] {
            assert!(serde_json::from_value::<ToController>(later.clone()).is_err());
            lines::write(&mut writer, &later).await.unwrap();
        }
        lines::write(&mut writer, &events(2)).await.unwrap();
        // Behind it, everything before has been counted.
        lines::write(&mut writer, &ToController::Goodbye)
            .await
            .unwrap();
        let mut arrived = Vec::new();
        let listening = async {
            loop {
                match hears.recv().await.expect("the link lasts") {
                    Heard::Events { events, .. } => arrived.extend(events),
                    Heard::Goodbye(_) => break,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, listening).await.unwrap();
        assert_eq!(arrived, [self::event(2)], "the one that is understood");
        // What was read goes out with the first word after it at the latest, so before the second.
        let word = || link.end_calls(&"desk".parse().unwrap(), ReleaseId::of(b"v1"), Vec::new());
        let mut said = BufReader::new(reader).lines();
        let acknowledged = async {
            let (mut read, mut words) = (0, 0);
            word();
            while words < 2 {
                let line = said.next_line().await.unwrap().expect("the link lasts");
                match serde_json::from_str(&line).unwrap() {
                    ToGateway::Read { batches } => read = batches,
                    ToGateway::EndCalls { .. } => {
                        words += 1;
                        word();
                    }
                    _ => {}
                }
            }
            read
        };
        assert_eq!(timeout(PATIENCE, acknowledged).await.unwrap(), 3);
    }
}
