//! Recorded sentences, and speech made ready to be sent.
//!
//! The clips are embedded, so that a smoke test needs no files and no speech engine. Their origin
//! is told in `clips/README.md`.

use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use crate::audio::{self, FRAME_SAMPLES, SILENCE};
use crate::likeness::Fingerprint;

/// Share of the peak below which a frame at the end of a sentence is not voice: -34 dB.
const VOICED_PEAK_DIVISOR: u16 = 50;

macro_rules! clips {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// One recorded sentence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Clip { $($(#[$doc])* $variant,)* }

        impl Clip {
            /// Every clip.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Short name, which is also its file name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The words spoken.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The recording, in mu-law.
            pub fn ulaw(self) -> &'static [u8] {
                match self {
                    $(Self::$variant => include_bytes!(concat!("../clips/", $name, ".ulaw")),)*
                }
            }
        }
    };
}

clips! {
    /// The agent picks up.
    Greeting = "greeting", "hello, this is the front desk, how can I help";
    /// Answers [`Clip::AskHours`].
    Hours = "hours", "we are open from nine to five";
    /// Answers [`Clip::AskBooking`].
    Booking = "booking", "your table is booked for tonight";
    /// Answers [`Clip::AskAddress`].
    Address = "address", "you will find us at twelve harbour street";
    /// Answers [`Clip::Bye`].
    Goodbye = "goodbye", "thank you for calling, goodbye";
    /// Answers what the agent did not understand.
    Sorry = "sorry", "sorry, could you say that again";
    /// Answers nothing anyone asked: the wrong content of a broken release.
    Weather = "weather", "the weather in paris is sunny";
    /// The caller asks for the opening hours.
    AskHours = "ask-hours", "what are your opening hours";
    /// The caller asks for a table.
    AskBooking = "ask-booking", "can I book a table for tonight";
    /// The caller asks for the address.
    AskAddress = "ask-address", "where can I find you";
    /// The caller ends the call.
    Bye = "bye", "thanks, bye bye";
}

impl Clip {
    /// What a caller can ask, each with the agent's answer.
    pub const QUESTIONS: &[(Self, Self)] = &[
        (Self::AskHours, Self::Hours),
        (Self::AskBooking, Self::Booking),
        (Self::AskAddress, Self::Address),
        (Self::Bye, Self::Goodbye),
    ];

    /// The clip called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|clip| clip.name() == name)
    }

    /// The clip made ready to be sent; prepared once per process.
    pub fn audio(self) -> Audio {
        static PREPARED: LazyLock<Vec<Audio>> = LazyLock::new(|| {
            let prepare = |clip: &Clip| Audio::from_ulaw(clip.name(), clip.text(), clip.ulaw());
            Clip::ALL.iter().map(prepare).collect()
        });
        PREPARED[self as usize].clone()
    }
}

impl fmt::Display for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Speech ready to be sent and recognised; cheap to clone.
///
/// It holds the base64 of each frame, because a process that speaks on sixty lines at once would
/// otherwise encode the same sentence sixty times. It serialises as its name.
#[derive(Clone)]
pub struct Audio(Arc<Inner>);

struct Inner {
    name: String,
    text: String,
    samples: Vec<i16>,
    frames: Vec<String>,
    voiced_frames: usize,
    fingerprint: OnceLock<Fingerprint>,
}

impl Audio {
    /// Prepares mu-law `bytes`; the last frame is filled with silence.
    pub fn from_ulaw(name: &str, text: &str, bytes: &[u8]) -> Self {
        let samples = audio::decode(bytes);
        let frames = bytes.chunks(FRAME_SAMPLES).map(|chunk| {
            let mut frame = [SILENCE; FRAME_SAMPLES];
            frame[..chunk.len()].copy_from_slice(chunk);
            STANDARD.encode(frame)
        });
        Self(Arc::new(Inner {
            name: name.to_owned(),
            text: text.to_owned(),
            frames: frames.collect(),
            voiced_frames: voiced_frames(&samples),
            samples,
            fingerprint: OnceLock::new(),
        }))
    }

    /// Short name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The words spoken.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The samples at 8 kHz.
    pub fn samples(&self) -> &[i16] {
        &self.0.samples
    }

    /// The base64 payload of each 20 ms frame.
    pub fn frames(&self) -> &[String] {
        &self.0.frames
    }

    /// Frames up to and with the last voiced one: a turn is over when that one has been sent.
    pub fn voiced_frames(&self) -> usize {
        self.0.voiced_frames
    }

    /// What it sounds like.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.0
            .fingerprint
            .get_or_init(|| Fingerprint::of(&self.0.samples))
    }
}

impl From<Clip> for Audio {
    fn from(clip: Clip) -> Self {
        clip.audio()
    }
}

impl fmt::Debug for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audio({:?})", self.0.name)
    }
}

impl Serialize for Audio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.name)
    }
}

fn voiced_frames(samples: &[i16]) -> usize {
    let peak = |frame: &[i16]| frame.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
    let floor = peak(samples) / VOICED_PEAK_DIVISOR;
    samples
        .chunks(FRAME_SAMPLES)
        .rposition(|frame| peak(frame) > floor)
        .map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_short_sentences() {
        for &clip in Clip::ALL {
            let audio = clip.audio();
            let ms = audio::duration_ms(audio.samples().len());
            assert!((800..4_000).contains(&ms), "{clip}: {ms} ms");
            assert!(audio.voiced_frames() + 10 > audio.frames().len(), "{clip}");
            assert_eq!(Clip::named(clip.name()), Some(clip));
            assert_eq!(audio.text(), clip.text());
        }
        assert_eq!(Clip::named("nothing"), None);
    }

    #[test]
    fn each_frame_is_160_bytes() {
        let odd = Audio::from_ulaw("odd", "", &[0; 200]);
        assert_eq!(odd.frames().len(), 2);
        assert_eq!(STANDARD.decode(&odd.frames()[1]).unwrap()[40], SILENCE);
        assert_eq!(Audio::from_ulaw("empty", "", &[]).voiced_frames(), 0);
    }
}
