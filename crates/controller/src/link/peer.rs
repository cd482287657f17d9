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

use super::outbox::Outbox;
use super::{Heard, Link, lines};
use crate::clock;

/// Time to greet. It is a local process that has nothing else to do.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// Time to take what it is told. One that does not read is dropped, and may come back.
const WRITE_MAX: Duration = Duration::from_secs(10);

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
        Some(ToController::Hello {
            version,
            gateway,
            acknowledges,
            ..
        }) if version == LINK_VERSION => Ok((gateway, acknowledges)),
        Some(ToController::Hello {
            version, gateway, ..
        }) => Err(bad(format!(
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
    while let Some(message) = lines::read(reader).await? {
        let is_kept = matches!(
            message,
            ToController::Ended { .. } | ToController::Events { .. }
        );
        match message {
            ToController::Presence(presence) if presence.gateway == *gateway => {
                let at = clock::now();
                if heard.send(Heard::Presence { at, presence }).await.is_err() {
                    return Ok(());
                }
            }
            ToController::Calls { request, calls } => link.answer(number, request, calls),
            ToController::Ended { calls, .. } => link.ended(calls),
            ToController::Workers { request, workers } => {
                link.answer_workers(number, request, workers);
            }
            ToController::Events { events, left_out } => {
                let gateway = gateway.clone();
                let events = Heard::Events {
                    gateway,
                    events,
                    left_out,
                };
                if heard.send(events).await.is_err() {
                    return Ok(());
                }
            }
            ToController::Goodbye => {
                let goodbye = Heard::Goodbye(gateway.clone());
                if heard.send(goodbye).await.is_err() {
                    return Ok(());
                }
            }
            ToController::Presence(presence) => {
                return Err(bad(format!("it reports as {}", presence.gateway)));
            }
            ToController::Hello { .. } => return Err(bad("it greets twice".to_owned())),
        }
        if is_kept {
            batches += 1;
            if let Some(outbox) = hears {
                outbox.set_read(batches);
            }
        }
    }
    Ok(())
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
