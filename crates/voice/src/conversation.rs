//! One call of the sample agent, from upgrade to goodbye.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message as Frame, Utf8Bytes};

use crate::audio::{self, FRAME_SAMPLES, SILENCE};
use crate::calllog::{WorkerEnd, WorkerLog};
use crate::clips::{Audio, Clip};
use crate::fault::Fault;
use crate::hearing::{self, Ear};
use crate::random::Random;
use crate::socket::{self, Socket};
use crate::twilio::{self, Incoming, Mark, MediaWriter, Message};

/// A caller that sends nothing for so long is gone: the provider sends fifty frames a second.
const CALLER_QUIET_MAX: Duration = Duration::from_secs(30);
/// Time for the caller to close after it said stop.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Answers waiting to be spoken; a caller who asks more than this at once loses the later ones.
const QUEUE_MAX: usize = 4;

/// What the agent says, as its fault has it.
#[derive(Debug)]
pub(crate) struct Voice {
    fault: Fault,
    garbled: Vec<(Clip, Audio)>,
}

impl Voice {
    pub(crate) fn new(fault: Fault) -> Self {
        let clips: &[Clip] = if fault == Fault::Garbled {
            Clip::ALL
        } else {
            &[]
        };
        let garbled = clips.iter().map(|&clip| (clip, garble(clip))).collect();
        Self { fault, garbled }
    }

    fn say(&self, clip: Clip) -> Option<Audio> {
        match self.fault {
            Fault::Silent => None,
            Fault::Wrong if clip != Clip::Greeting => Some(Clip::Weather.audio()),
            Fault::Garbled => {
                let found = self.garbled.iter().find(|(other, _)| *other == clip);
                found.map(|(_, audio)| audio.clone())
            }
            _ => Some(clip.audio()),
        }
    }
}

/// The clip in pieces, in disorder, under noise.
fn garble(clip: Clip) -> Audio {
    let mut random = Random::of(clip.name());
    let mut frames: Vec<&[u8]> = clip.ulaw().chunks(FRAME_SAMPLES).collect();
    random.shuffle(&mut frames);
    let mut samples = audio::decode(&frames.concat());
    for sample in &mut samples {
        let noise = i16::try_from(random.below(4_000)).unwrap_or(0) - 2_000;
        *sample = sample.saturating_add(noise);
    }
    Audio::from_ulaw(clip.name(), clip.text(), &audio::encode(&samples))
}

/// How a call came in.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Id given by a header, which overrules the caller's.
    pub(crate) header_id: Option<String>,
    /// Id in the path, for callers that give none.
    pub(crate) path_id: String,
}

/// How a call ended.
#[derive(Debug)]
struct End {
    by: WorkerEnd,
    code: Option<u16>,
}

impl End {
    fn error() -> Self {
        Self {
            by: WorkerEnd::Error,
            code: None,
        }
    }
}

/// Holds the whole conversation and logs its start and end.
pub(crate) async fn converse(
    socket: Socket,
    from: Arrival,
    voice: &Voice,
    log: &WorkerLog,
    leave: &Notify,
) {
    let mut call = Call {
        from,
        voice,
        log,
        id: None,
        writer: MediaWriter::new(""),
        silence: Utf8Bytes::default(),
        stream_sid: String::new(),
        queue: VecDeque::new(),
        spoken: 0,
        ear: Ear::new(),
        drop_at: None,
        stopped: false,
    };
    let end = call.run(socket, leave).await;
    // A call that broke before it said who it was is still a call that broke.
    let id = call.identify("");
    log.ended(&id, end.by, end.code);
}

struct Call<'a> {
    from: Arrival,
    voice: &'a Voice,
    log: &'a WorkerLog,
    id: Option<String>,
    writer: MediaWriter,
    silence: Utf8Bytes,
    stream_sid: String,
    queue: VecDeque<Audio>,
    spoken: usize,
    ear: Ear,
    drop_at: Option<Instant>,
    stopped: bool,
}

impl Call<'_> {
    async fn run(&mut self, mut socket: Socket, leave: &Notify) -> End {
        let mut ticks = socket::ticks();
        let mut audio = Vec::with_capacity(FRAME_SAMPLES);
        let mut heard_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = leave.notified() => {
                    let close = CloseFrame {
                        code: CloseCode::Normal,
                        reason: Utf8Bytes::from_static("call back"),
                    };
                    if socket.close(Some(close)).await.is_ok() {
                        socket::finish(socket).await;
                    }
                    let code = Some(CloseCode::Normal.into());
                    return End { by: WorkerEnd::Worker, code };
                }
                frame = socket.next() => {
                    heard_at = Instant::now();
                    match frame {
                        Some(Ok(Frame::Text(text))) => self.read(&text, &mut audio),
                        Some(Ok(Frame::Close(close))) => {
                            let code = close.map(|close| close.code.into());
                            socket::finish(socket).await;
                            return End { by: WorkerEnd::Caller, code };
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return self.vanished(),
                    }
                }
                _ = ticks.tick() => {
                    let now = Instant::now();
                    if self.drop_at.is_some_and(|at| now >= at) {
                        return End { by: WorkerEnd::Worker, code: None };
                    }
                    if now - heard_at > CALLER_QUIET_MAX {
                        return End::error();
                    }
                    if self.stopped {
                        if now - heard_at > CLOSE_MAX {
                            return End { by: WorkerEnd::Caller, code: None };
                        }
                    } else if self.speak(&mut socket).await.is_err() {
                        return match socket::last_words(&mut socket).await {
                            Some(code) => End { by: WorkerEnd::Caller, code },
                            None => self.vanished(),
                        };
                    }
                }
            }
        }
    }

    fn vanished(&self) -> End {
        let by = if self.stopped {
            WorkerEnd::Caller
        } else {
            WorkerEnd::Error
        };
        End { by, code: None }
    }

    /// Takes the call's id at the first chance, and logs that the call started.
    fn identify(&mut self, call_sid: &str) -> String {
        let Self { from, log, .. } = self;
        let id = self.id.get_or_insert_with(|| {
            let given = from.header_id.as_deref();
            let fallback = [call_sid, &from.path_id, "unidentified"];
            let id = given.into_iter().chain(fallback).find(|id| !id.is_empty());
            let id = id.unwrap_or_default().to_owned();
            log.started(&id);
            id
        });
        id.clone()
    }

    fn read(&mut self, text: &str, audio: &mut Vec<u8>) {
        match twilio::read(text, audio) {
            Some(Incoming::Audio) => {
                if let Some(sentence) = self.ear.hear(audio) {
                    self.enqueue(hearing::answer(&sentence));
                }
            }
            Some(Incoming::Message(Message::Start { stream_sid, start })) if self.id.is_none() => {
                let id = self.identify(&start.call_sid);
                self.drop_at = self
                    .voice
                    .fault
                    .drop_after(&id)
                    .map(|ms| Instant::now() + ms);
                let sid = if stream_sid.is_empty() {
                    start.stream_sid
                } else {
                    stream_sid
                };
                self.writer = MediaWriter::new(&sid);
                self.silence = self.writer.outbound(&base64_silence()).into();
                self.stream_sid = sid;
                self.enqueue(Clip::Greeting);
            }
            Some(Incoming::Message(Message::Stop { .. })) => self.stopped = true,
            Some(Incoming::Message(_)) | None => {}
        }
    }

    fn enqueue(&mut self, clip: Clip) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.extend(self.voice.say(clip));
        }
    }

    /// Sends one frame: of the sentence being spoken, or of silence, so that whoever listens can
    /// tell a pause from a stall.
    async fn speak(&mut self, socket: &mut Socket) -> io::Result<()> {
        if self.id.is_none() || self.voice.fault == Fault::Silent {
            return Ok(());
        }
        let Some(audio) = self.queue.front() else {
            return socket::send(socket, self.silence.clone()).await;
        };
        if let Some(payload) = audio.frames().get(self.spoken) {
            self.spoken += 1;
            return socket::send(socket, self.writer.outbound(payload).into()).await;
        }
        let mark = Mark {
            name: audio.name().to_owned(),
        };
        self.queue.pop_front();
        self.spoken = 0;
        let mark = Message::Mark {
            stream_sid: self.stream_sid.clone(),
            mark,
        };
        socket::send(socket, mark.to_json().into()).await?;
        socket::send(socket, self.silence.clone()).await
    }
}

fn base64_silence() -> String {
    Audio::from_ulaw("", "", &[SILENCE; FRAME_SAMPLES])
        .frames()
        .concat()
}
