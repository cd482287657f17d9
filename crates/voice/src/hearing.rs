//! The agent's ear: where a sentence ends, and which one it was.

use crate::audio::{self, FRAME_SAMPLES, SAMPLE_RATE_HZ, VAD_FRAME_MS, Vad};
use crate::clips::Clip;
use crate::likeness::{Fingerprint, LIKENESS_MIN};

/// Quiet after which a sentence is over. Shorter cuts callers off in a pause for breath; longer is
/// felt as a slow agent.
const ENDPOINT_MS: u64 = 400;
/// Voice a sentence must have at least; less is a cough.
const VOICE_MS_MIN: u64 = 200;
/// Samples kept from before a sentence: voice is detected a little late.
const LEAD_SAMPLES: usize = 2 * FRAME_SAMPLES;
/// Longest sentence kept: 15 s. What follows is not looked at.
const SENTENCE_SAMPLES_MAX: usize = 15 * SAMPLE_RATE_HZ as usize;

/// Cuts what the caller says into sentences.
#[derive(Debug)]
pub(crate) struct Ear {
    vad: Vad,
    heard: Vec<i16>,
    voiced_ms: u64,
    quiet_ms: u64,
}

impl Ear {
    pub(crate) fn new() -> Self {
        Self {
            vad: Vad::new(),
            heard: Vec::new(),
            voiced_ms: 0,
            quiet_ms: 0,
        }
    }

    /// Hears mu-law `bytes`; returns the sentence which they ended.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Option<Vec<i16>> {
        let before = self.heard.len();
        if before < SENTENCE_SAMPLES_MAX {
            audio::decode_into(bytes, &mut self.heard);
        }
        let Self {
            vad,
            voiced_ms,
            quiet_ms,
            ..
        } = self;
        vad.push(&self.heard[before..], |voice| {
            if voice {
                *voiced_ms += VAD_FRAME_MS;
                *quiet_ms = 0;
            } else {
                *quiet_ms += VAD_FRAME_MS;
            }
        });
        if self.heard.len() >= SENTENCE_SAMPLES_MAX {
            return self.end();
        }
        if self.voiced_ms == 0 {
            self.heard
                .drain(..self.heard.len().saturating_sub(LEAD_SAMPLES));
            return None;
        }
        if self.quiet_ms < ENDPOINT_MS {
            return None;
        }
        self.end()
    }

    fn end(&mut self) -> Option<Vec<i16>> {
        let heard = std::mem::take(&mut self.heard);
        let enough = self.voiced_ms >= VOICE_MS_MIN;
        (self.voiced_ms, self.quiet_ms) = (0, 0);
        enough.then_some(heard)
    }
}

/// The answer to a sentence: that of the question it resembles most, if it resembles any.
pub(crate) fn answer(heard: &[i16]) -> Clip {
    let heard = Fingerprint::of(heard);
    let likeness = |question: Clip| heard.likeness(question.audio().fingerprint());
    Clip::QUESTIONS
        .iter()
        .map(|&(question, answer)| (likeness(question), answer))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map_or(Clip::Sorry, |(_, answer)| answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::SILENCE;

    /// Says `clip` after a second of silence; the agent's answers.
    fn answers(ear: &mut Ear, clip: &[u8]) -> Vec<Clip> {
        let quiet = [SILENCE; 8_000];
        [&quiet, clip, &quiet]
            .concat()
            .chunks(FRAME_SAMPLES)
            .filter_map(|frame| ear.hear(frame))
            .map(|heard| answer(&heard))
            .collect()
    }

    #[test]
    fn each_question_gets_its_answer() {
        let mut ear = Ear::new();
        for &(question, answer) in Clip::QUESTIONS {
            assert_eq!(answers(&mut ear, question.ulaw()), [answer], "{question}");
        }
    }

    #[test]
    fn other_sentences_get_an_excuse_and_coughs_get_nothing() {
        let mut ear = Ear::new();
        assert_eq!(answers(&mut ear, Clip::Weather.ulaw()), [Clip::Sorry]);
        assert_eq!(answers(&mut ear, &Clip::Weather.ulaw()[4_000..4_800]), []);
        assert_eq!(answers(&mut ear, &[SILENCE; 8_000]), []);
    }
}
