//! Is what we heard what we expected to hear?
//!
//! Both sounds are turned into sequences of log energies in bands, and the sequences are
//! correlated at the alignment that suits them best. This is no speech recognition: it knows one
//! recording from another, which is what a smoke test with known answers needs, at a thousandth of
//! the cost and with nothing to install. It forgives what a telephone line does (delay, loudness,
//! mu-law) and nothing that a broken agent does (other words, noise, missing or reordered frames).
//!
//! An agent whose speech engine words or voices the answer differently each time will look unlike;
//! for such agents expect a voice, and no particular one.

use std::f32::consts::TAU;
use std::sync::LazyLock;

/// Likeness from which a sound passes for the expected one.
///
/// Over all pairs of our clips: the same clip, delayed by any time to a second and 6 dB quieter,
/// scores above 0.9; other clips, shuffled frames and noise score below 0.6. The threshold is
/// midway, so neither side is one bad frame away from it.
pub const LIKENESS_MIN: f64 = 0.75;

/// Samples between two looks at the sound: 10 ms, so that an alignment is never off by more than
/// 5 ms, a quarter of the window.
const HOP: usize = 80;
/// Samples looked at: 20 ms.
const WINDOW: usize = 160;
const FFT: usize = 256;
const BANDS: usize = 16;
/// Bins of the transform where each band begins; the telephone band of 200 to 3 600 Hz, in steps
/// that grow as the ear's do.
const EDGES: [usize; BANDS + 1] = [
    6, 9, 12, 15, 18, 22, 26, 31, 36, 42, 49, 57, 66, 76, 88, 101, 115,
];
/// Energy added to each band: what is much weaker than speech all sounds the same.
const FLOOR: f32 = 1.0e-4;
/// Share of a window's loudness taken from each band. All sentences grow loud and quiet at the pace
/// of syllables, so loudness says little about which one it is; the shape of the spectrum does.
const LOUDNESS_REMOVED: f32 = 0.7;
/// Windows of 20 ms without any sound put before and after what was heard, for alignments at its edges.
const MARGIN: usize = 25;
/// Longest sound compared: 30 s. The rest is not looked at.
const WINDOWS_MAX: usize = 3_000;

/// A sound as a sequence of log band energies.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    windows: Vec<[f32; BANDS]>,
}

/// How like `expected` the sound `heard` is: `0.0` not at all, `1.0` the same.
///
/// `heard` may begin late, go on longer, and be louder or quieter.
pub fn similarity(heard: &[i16], expected: &[i16]) -> f64 {
    Fingerprint::of(heard).likeness(&Fingerprint::of(expected))
}

impl Fingerprint {
    /// The fingerprint of `samples` at 8 kHz.
    pub fn of(samples: &[i16]) -> Self {
        let windows = samples.windows(WINDOW).step_by(HOP).take(WINDOWS_MAX);
        Self {
            windows: windows.map(bands).collect(),
        }
    }

    /// How like `expected` this is; see [`similarity`].
    pub fn likeness(&self, expected: &Self) -> f64 {
        // The expected windows follow without overlap. What was heard is looked at twice as often,
        // and each half of that is a sequence of its own.
        let wanted: Vec<_> = expected.windows.iter().copied().step_by(2).collect();
        let wanted = normalised(&wanted);
        if wanted.is_empty() || self.windows.is_empty() {
            return 0.0;
        }
        let best = [0, 1].map(|offset| self.best_correlation(offset, &wanted));
        best[0].max(best[1]).clamp(0.0, 1.0)
    }

    fn best_correlation(&self, offset: usize, wanted: &[[f32; BANDS]]) -> f64 {
        let mut heard = vec![[0.0; BANDS]; MARGIN];
        heard.extend(self.windows.iter().skip(offset).step_by(2));
        let whole = (heard.len() + MARGIN).max(MARGIN + wanted.len());
        heard.resize(whole, [0.0; BANDS]);
        let sums = Sums::of(&heard);
        let parts = heard.windows(wanted.len()).enumerate();
        parts
            .map(|(start, part)| correlation(part, wanted, sums.variance(start, part.len())))
            .fold(0.0, f64::max)
    }
}

/// Correlation of `part`, of this variance, with `wanted`, whose bands have mean zero and which has
/// norm one.
fn correlation(part: &[[f32; BANDS]], wanted: &[[f32; BANDS]], variance: f64) -> f64 {
    if variance <= 0.0 {
        return 0.0;
    }
    let mut product = 0.0;
    for (part, wanted) in part.iter().zip(wanted) {
        for band in 0..BANDS {
            product += part[band] * wanted[band];
        }
    }
    f64::from(product) / variance.sqrt()
}

/// Running sums, from which the variance of any part is found without adding it up again.
struct Sums {
    bands: Vec<[f64; BANDS]>,
    squares: Vec<f64>,
}

impl Sums {
    fn of(windows: &[[f32; BANDS]]) -> Self {
        let (mut sum, mut square) = ([0.0; BANDS], 0.0);
        let mut sums = Self {
            bands: vec![sum],
            squares: vec![square],
        };
        for window in windows {
            for (sum, &energy) in sum.iter_mut().zip(window) {
                *sum += f64::from(energy);
                square += f64::from(energy) * f64::from(energy);
            }
            sums.bands.push(sum);
            sums.squares.push(square);
        }
        sums
    }

    /// Variance of `count` windows from `start`, times `count`; zero for a constant part.
    fn variance(&self, start: usize, count: usize) -> f64 {
        let end = start + count;
        let squares = self.squares[end] - self.squares[start];
        let sums = self.bands[end].iter().zip(&self.bands[start]);
        #[expect(clippy::cast_precision_loss, reason = "at most WINDOWS_MAX")]
        let count = count as f64;
        let means: f64 = sums.map(|(end, start)| (end - start).powi(2) / count).sum();
        let variance = squares - means;
        // Rounding leaves a trace of variance in a constant sequence.
        if variance < 1.0e-2 * count {
            0.0
        } else {
            variance
        }
    }
}

/// Removes the mean of each band and scales the whole to norm one; empty if nothing is left.
fn normalised(windows: &[[f32; BANDS]]) -> Vec<[f32; BANDS]> {
    #[expect(clippy::cast_precision_loss, reason = "at most WINDOWS_MAX")]
    let count = windows.len().max(1) as f32;
    let mut mean = [0.0; BANDS];
    for window in windows {
        for (mean, energy) in mean.iter_mut().zip(window) {
            *mean += energy / count;
        }
    }
    let centred = |window: &[f32; BANDS]| std::array::from_fn(|band| window[band] - mean[band]);
    let mut centred: Vec<[f32; BANDS]> = windows.iter().map(centred).collect();
    let norm = centred.iter().flatten().map(|e| e * e).sum::<f32>().sqrt();
    if norm < 1.0e-3 {
        return Vec::new();
    }
    centred.iter_mut().flatten().for_each(|e| *e /= norm);
    centred
}

struct Tables {
    hann: [f32; WINDOW],
    twiddles: [(f32, f32); FFT / 2],
    reversed: [u8; FFT],
}

#[expect(clippy::cast_precision_loss, reason = "indices below 256")]
static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    hann: std::array::from_fn(|i| 0.5 - 0.5 * (TAU * i as f32 / WINDOW as f32).cos()),
    twiddles: std::array::from_fn(|i| {
        let (sin, cos) = (-TAU * i as f32 / FFT as f32).sin_cos();
        (cos, sin)
    }),
    reversed: std::array::from_fn(|i| u8::try_from(i).expect("FFT is 256").reverse_bits()),
});

/// Log energies of one window.
fn bands(samples: &[i16]) -> [f32; BANDS] {
    let tables = &*TABLES;
    let (mut re, mut im) = ([0.0_f32; FFT], [0.0_f32; FFT]);
    for (i, (&sample, hann)) in samples.iter().zip(&tables.hann).enumerate() {
        re[usize::from(tables.reversed[i])] = f32::from(sample) / 32_768.0 * hann;
    }
    let mut half = 1;
    while half < FFT {
        let stride = FFT / 2 / half;
        for start in (0..FFT).step_by(2 * half) {
            for k in 0..half {
                let (cos, sin) = tables.twiddles[k * stride];
                let (a, b) = (start + k, start + k + half);
                let (tr, ti) = (re[b] * cos - im[b] * sin, re[b] * sin + im[b] * cos);
                (re[b], im[b]) = (re[a] - tr, im[a] - ti);
                (re[a], im[a]) = (re[a] + tr, im[a] + ti);
            }
        }
        half *= 2;
    }
    let energies: [f32; BANDS] = std::array::from_fn(|band| {
        let energy: f32 = (EDGES[band]..EDGES[band + 1])
            .map(|bin| re[bin] * re[bin] + im[bin] * im[bin])
            .sum();
        (energy / FLOOR + 1.0).ln()
    });
    #[expect(clippy::cast_precision_loss, reason = "sixteen bands")]
    let loudness = energies.iter().sum::<f32>() / BANDS as f32;
    energies.map(|energy| energy - LOUDNESS_REMOVED * loudness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{self, FRAME_SAMPLES};
    use crate::clips::Clip;
    use crate::random::Random;

    /// What the two sides of the threshold promise.
    const ALIKE: f64 = 0.9;
    const UNLIKE: f64 = 0.6;

    fn prints() -> Vec<(Clip, Fingerprint)> {
        let print = |&clip: &Clip| (clip, clip.audio().fingerprint().clone());
        Clip::ALL.iter().map(print).collect()
    }

    fn later(samples: &[i16], lag: usize) -> Vec<i16> {
        let mut heard = vec![0; lag];
        heard.extend_from_slice(samples);
        heard.extend_from_slice(&[0; 3_000]);
        heard
    }

    #[test]
    fn a_clip_is_like_itself_late_and_quiet() {
        for (clip, print) in prints() {
            let audio = clip.audio();
            let half: Vec<i16> = audio.samples().iter().map(|s| s / 2).collect();
            let half = audio::decode(&audio::encode(&half));
            for lag in [0, 40, 1_234, 8_000] {
                for samples in [audio.samples(), &half] {
                    let likeness = Fingerprint::of(&later(samples, lag)).likeness(&print);
                    assert!(likeness > ALIKE, "{clip} late by {lag}: {likeness}");
                }
            }
        }
    }

    #[test]
    fn a_clip_is_unlike_every_other() {
        for (one, expected) in prints() {
            for (other, heard) in prints().into_iter().filter(|(other, _)| *other != one) {
                let likeness = heard.likeness(&expected);
                assert!(likeness < UNLIKE, "{other} as {one}: {likeness}");
            }
        }
    }

    #[test]
    fn a_garbled_clip_is_unlike_itself() {
        for (clip, expected) in prints() {
            let mut frames: Vec<&[u8]> = clip.ulaw().chunks(FRAME_SAMPLES).collect();
            Random::of(clip.name()).shuffle(&mut frames);
            let shuffled = audio::decode(&frames.concat());
            let flipped: Vec<u8> = clip.ulaw().iter().map(|byte| byte ^ 0x55).collect();
            for (how, heard) in [("shuffled", shuffled), ("flipped", audio::decode(&flipped))] {
                let likeness = Fingerprint::of(&heard).likeness(&expected);
                assert!(likeness < UNLIKE, "{clip} {how}: {likeness}");
            }
        }
    }

    #[test]
    fn noise_and_silence_are_like_nothing() {
        let mut random = Random::new(7);
        let noise: Vec<i16> = (0..16_000)
            .map(|_| i16::try_from(random.below(16_000)).unwrap() - 8_000)
            .collect();
        for (clip, expected) in prints() {
            let likeness = Fingerprint::of(&noise).likeness(&expected);
            assert!(likeness < UNLIKE, "noise as {clip}: {likeness}");
            assert!(similarity(&[0; 8_000], clip.audio().samples()).abs() < f64::EPSILON);
            assert!(similarity(&[], clip.audio().samples()).abs() < f64::EPSILON);
            assert!(similarity(clip.audio().samples(), &[]).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn half_an_answer_does_not_pass() {
        for (clip, expected) in prints() {
            let samples = clip.audio().samples().to_vec();
            let likeness = Fingerprint::of(&samples[..samples.len() / 2]).likeness(&expected);
            assert!(likeness < LIKENESS_MIN, "{clip} cut off: {likeness}");
        }
    }
}
