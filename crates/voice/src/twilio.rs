//! The messages of Twilio Media Streams.
//!
//! Only what a call needs is typed. Unknown fields are ignored and unknown events are
//! [`Message::Other`], because the provider adds both without notice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::audio::FRAME_MS;

/// One message, in either direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum Message {
    /// The socket is open; first message of the caller's side.
    Connected {
        /// Always `Call`.
        #[serde(default)]
        protocol: String,
        /// Version of the protocol.
        #[serde(default)]
        version: String,
    },
    /// Which call this is; second message of the caller's side.
    Start {
        /// Id of the stream.
        #[serde(default)]
        stream_sid: String,
        /// The call.
        start: Start,
    },
    /// Audio.
    Media {
        /// Id of the stream.
        #[serde(default)]
        stream_sid: String,
        /// The audio.
        media: Media,
    },
    /// From the agent: tell me when you have played all until here. From the caller: played.
    Mark {
        /// Id of the stream.
        #[serde(default)]
        stream_sid: String,
        /// The mark.
        mark: Mark,
    },
    /// From the agent: forget what you have not played yet.
    Clear {
        /// Id of the stream.
        #[serde(default)]
        stream_sid: String,
    },
    /// From the caller: the call is over.
    Stop {
        /// Id of the stream.
        #[serde(default)]
        stream_sid: String,
    },
    /// An event this crate has no use for.
    #[serde(other)]
    Other,
}

/// Which call a stream belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Id of the stream.
    #[serde(default)]
    pub stream_sid: String,
    /// Id of the call.
    #[serde(default)]
    pub call_sid: String,
    /// Parameters set by the webhook's answer.
    #[serde(default)]
    pub custom_parameters: BTreeMap<String, String>,
}

/// Audio of a [`Message::Media`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// Base64 of mu-law at 8 kHz, of any length.
    pub payload: String,
}

/// Name of a [`Message::Mark`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Chosen by the agent.
    pub name: String,
}

impl Message {
    /// Reads one message.
    ///
    /// # Errors
    ///
    /// When `text` is no JSON object with an `event`, or a known event lacks its essential part.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The message as it goes on the wire.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("messages are strings and maps of strings")
    }
}

/// A message as a live call reads it: audio, which is nearly all of them, without copying it.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Mu-law audio was appended to the buffer.
    Audio,
    /// Anything else.
    Message(Message),
}

#[derive(Deserialize)]
struct Borrowed<'a> {
    event: &'a str,
    #[serde(borrow)]
    media: Option<BorrowedMedia<'a>>,
}

#[derive(Deserialize)]
struct BorrowedMedia<'a> {
    payload: &'a str,
    track: Option<&'a str>,
}

/// Reads `text`; audio is decoded into `audio`, which is emptied first.
///
/// Returns `None` for what cannot be understood: one bad message is no reason to end a call.
pub(crate) fn read(text: &str, audio: &mut Vec<u8>) -> Option<Incoming> {
    audio.clear();
    let media = serde_json::from_str(text)
        .ok()
        .and_then(|m: Borrowed<'_>| m.media.filter(|_| m.event == "media"));
    let Some(media) = media else {
        return Message::parse(text).ok().map(Incoming::Message);
    };
    // A caller may be sent back what we said to it; that is nothing to listen to.
    if media.track.is_none_or(|track| track == "inbound") {
        STANDARD.decode_vec(media.payload, audio).ok()?;
    }
    Some(Incoming::Audio)
}

/// Writes the media messages of one stream, from payloads already in base64.
#[derive(Debug)]
pub(crate) struct MediaWriter {
    stream_sid: String,
    sequence: u64,
    chunk: u64,
}

impl MediaWriter {
    pub(crate) fn new(stream_sid: &str) -> Self {
        let stream_sid = serde_json::to_string(stream_sid).expect("a string is JSON");
        // `connected` has no number and `start` has the first.
        Self {
            stream_sid,
            sequence: 1,
            chunk: 0,
        }
    }

    /// A frame from the agent.
    pub(crate) fn outbound(&self, payload: &str) -> String {
        let sid = &self.stream_sid;
        format!(r#"{{"event":"media","streamSid":{sid},"media":{{"payload":"{payload}"}}}}"#)
    }

    /// A frame from the caller, numbered and timed as the provider does.
    pub(crate) fn inbound(&mut self, payload: &str) -> String {
        self.sequence += 1;
        self.chunk += 1;
        let Self {
            stream_sid,
            sequence,
            chunk,
        } = self;
        let timestamp = *chunk * FRAME_MS;
        let mut text = String::with_capacity(payload.len() + stream_sid.len() + 160);
        write!(
            text,
            r#"{{"event":"media","sequenceNumber":"{sequence}","streamSid":{stream_sid},"media":{{"track":"inbound","chunk":"{chunk}","timestamp":"{timestamp}","payload":"{payload}"}}}}"#,
        )
        .expect("writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_of_the_provider_is_read() {
        let text = r#"{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC1",
            "streamSid":"MZ1","callSid":"CA1","tracks":["inbound"],"mediaFormat":{"encoding":
            "audio/x-mulaw","sampleRate":8000,"channels":1},"customParameters":{"a":"b"}},
            "streamSid":"MZ1"}"#;
        let Message::Start { stream_sid, start } = Message::parse(text).unwrap() else {
            panic!("not a start");
        };
        assert_eq!(
            (stream_sid.as_str(), start.call_sid.as_str()),
            ("MZ1", "CA1")
        );
        assert_eq!(start.custom_parameters["a"], "b");
    }

    #[test]
    fn every_message_survives_a_round_trip() {
        let sid = || "MZ1".to_owned();
        for message in [
            Message::Connected {
                protocol: "Call".into(),
                version: "1.0.0".into(),
            },
            Message::Start {
                stream_sid: sid(),
                start: Start::default(),
            },
            Message::Media {
                stream_sid: sid(),
                media: Media {
                    payload: "/w==".into(),
                },
            },
            Message::Mark {
                stream_sid: sid(),
                mark: Mark { name: "m".into() },
            },
            Message::Clear { stream_sid: sid() },
            Message::Stop { stream_sid: sid() },
        ] {
            assert_eq!(Message::parse(&message.to_json()).unwrap(), message);
        }
        let dtmf = Message::parse(r#"{"event":"dtmf","dtmf":{"digit":"1"}}"#).unwrap();
        assert_eq!(dtmf, Message::Other);
        assert!(Message::parse("{}").is_err());
    }

    #[test]
    fn written_frames_are_read_back() {
        let mut writer = MediaWriter::new("MZ\"1");
        for text in [writer.inbound("/38="), writer.outbound("/38=")] {
            let mut audio = Vec::new();
            assert!(matches!(read(&text, &mut audio), Some(Incoming::Audio)));
            assert_eq!(audio, [0xFF, 0x7F]);
            assert!(Message::parse(&text).is_ok());
        }
        assert!(
            writer
                .inbound("")
                .contains(r#""chunk":"2","timestamp":"40""#)
        );
        assert!(read("nonsense", &mut Vec::new()).is_none());
    }
}
