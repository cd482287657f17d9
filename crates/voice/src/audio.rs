//! Samples: mu-law, resampling and voice detection, in the frames of the telephone network.

use std::sync::LazyLock;

use earshot::Detector;

/// Samples per second on the wire.
pub const SAMPLE_RATE_HZ: u32 = 8_000;
/// Length of one frame on the wire.
pub const FRAME_MS: u64 = 20;
/// Samples, and mu-law bytes, in one frame on the wire.
pub const FRAME_SAMPLES: usize = 160;
/// The mu-law byte for silence.
pub const SILENCE: u8 = 0xFF;

/// Samples at 8 kHz that make one frame of the voice detector: 16 ms.
const VAD_SAMPLES: usize = 128;
/// Length of one frame of the voice detector.
pub const VAD_FRAME_MS: u64 = 16;
/// Score above which the detector's authors call a frame voice.
const VAD_SCORE_MIN: f32 = 0.5;
/// Frames whose peak is below this (about -48 dBFS) are quiet without asking the detector. A line
/// is silent most of the time, and the detector costs more than the rest of a call together.
const VAD_PEAK_MIN: u16 = 128;

static DECODED: LazyLock<[i16; 256]> = LazyLock::new(|| {
    std::array::from_fn(|byte| {
        let byte = u8::try_from(byte).expect("the table has 256 entries");
        audio_codec_algorithms::decode_ulaw(byte)
    })
});

/// Appends the samples of mu-law `bytes` to `samples`.
pub fn decode_into(bytes: &[u8], samples: &mut Vec<i16>) {
    let table = &*DECODED;
    samples.extend(bytes.iter().map(|&byte| table[usize::from(byte)]));
}

/// The samples of mu-law `bytes`.
pub fn decode(bytes: &[u8]) -> Vec<i16> {
    let mut samples = Vec::with_capacity(bytes.len());
    decode_into(bytes, &mut samples);
    samples
}

/// Mu-law bytes of `samples`.
pub fn encode(samples: &[i16]) -> Vec<u8> {
    samples
        .iter()
        .map(|&sample| audio_codec_algorithms::encode_ulaw(sample))
        .collect()
}

/// Milliseconds that `samples` last at 8 kHz.
pub fn duration_ms(samples: usize) -> u64 {
    samples as u64 * 1_000 / u64::from(SAMPLE_RATE_HZ)
}

/// Voice detector for one direction of one call.
///
/// It takes audio in pieces of any length and answers once per 16 ms.
pub struct Vad {
    detector: Box<Detector>,
    pending: Vec<i16>,
    wide: Vec<i16>,
    last: i16,
}

impl std::fmt::Debug for Vad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vad")
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Default for Vad {
    fn default() -> Self {
        Self::new()
    }
}

impl Vad {
    /// A detector that has heard nothing.
    pub fn new() -> Self {
        Self {
            detector: Detector::default_boxed(),
            pending: Vec::with_capacity(VAD_SAMPLES + FRAME_SAMPLES),
            wide: Vec::with_capacity(2 * VAD_SAMPLES),
            last: 0,
        }
    }

    /// Hears `samples` and calls `verdict` with `true` for each 16 ms of voice, `false` otherwise.
    pub fn push(&mut self, samples: &[i16], mut verdict: impl FnMut(bool)) {
        self.pending.extend_from_slice(samples);
        let mut pending = std::mem::take(&mut self.pending);
        let mut frames = pending.chunks_exact(VAD_SAMPLES);
        for frame in &mut frames {
            verdict(self.is_voice(frame));
        }
        let rest = frames.remainder().len();
        pending.drain(..pending.len() - rest);
        self.pending = pending;
    }

    fn is_voice(&mut self, frame: &[i16]) -> bool {
        let quiet = frame.iter().all(|s| s.unsigned_abs() < VAD_PEAK_MIN);
        if quiet {
            self.last = frame.last().copied().unwrap_or(self.last);
            return false;
        }
        self.wide.clear();
        self.last = double_rate(frame, self.last, &mut self.wide);
        self.detector.predict_i16(&self.wide) > VAD_SCORE_MIN
    }
}

/// Appends `samples` at twice their rate to `wide`, and returns the last sample for the next call.
///
/// Linear interpolation: the detector's features do not look above 4 kHz closely enough to be
/// misled by the images it leaves.
pub fn double_rate(samples: &[i16], mut last: i16, wide: &mut Vec<i16>) -> i16 {
    for &sample in samples {
        wide.push(last.midpoint(sample));
        wide.push(sample);
        last = sample;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clips::Clip;

    fn voiced(samples: &[i16]) -> (usize, usize) {
        let (mut yes, mut all) = (0, 0);
        let mut vad = Vad::new();
        for piece in samples.chunks(FRAME_SAMPLES) {
            vad.push(piece, |voice| {
                all += 1;
                yes += usize::from(voice);
            });
        }
        (yes, all)
    }

    #[test]
    fn mu_law_survives_a_round_trip() {
        let bytes: Vec<u8> = (0..=255).filter(|&b| b != 0x7F).collect();
        assert_eq!(encode(&decode(&bytes)), bytes);
        assert_eq!(decode(&[SILENCE]), [0]);
    }

    #[test]
    fn doubling_the_rate_keeps_each_sample() {
        let mut wide = Vec::new();
        assert_eq!(double_rate(&[10, 20], 0, &mut wide), 20);
        assert_eq!(wide, [5, 10, 15, 20]);
    }

    #[test]
    fn speech_is_voice_and_silence_is_not() {
        for &clip in Clip::ALL {
            let (yes, all) = voiced(clip.audio().samples());
            assert!(yes * 10 > all * 6, "{clip}: {yes} of {all}");
        }
        assert_eq!(voiced(&[0; 8_000]), (0, 62));
    }
}
