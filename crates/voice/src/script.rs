//! The caller's side of a conversation, without the connection: when to speak, what was heard.
//!
//! It is told the time and the audio, and says what to send. The time of what it hears is the time
//! at which a telephone would play it: an agent may send a sentence faster than it is spoken.

use std::time::Duration;

use tokio::time::Instant;

use crate::audio::{self, SAMPLE_RATE_HZ, VAD_FRAME_MS, Vad};
use crate::caller::{CallPlan, TurnReport};
use crate::clips::{Audio, Clip};
use crate::likeness::{Fingerprint, LIKENESS_MIN};
use crate::random::Random;

/// Quiet after which the agent has finished; longer than a pause between two parts of a sentence.
const SETTLE: Duration = Duration::from_millis(500);
/// Dead line after which it has finished as well: not every agent sends its silence. Longer, since
/// a line may be dead in the middle of a sentence, which is a gap and not its end.
const DEAD: Duration = Duration::from_millis(1_500);
/// Longest answer listened to. An agent that talks on is interrupted.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const VAD_FRAME: Duration = Duration::from_millis(VAD_FRAME_MS);
/// Samples kept of one answer.
const HEARD_SAMPLES_MAX: usize = 30 * SAMPLE_RATE_HZ as usize;
/// Longest pause before a question. It spreads callers that were started together.
const PAUSE_MS_MAX: u64 = 400;

/// What the caller does with this tick of 20 ms.
pub(crate) enum Act {
    /// Says this frame of that audio.
    Say(Audio, usize),
    /// Says nothing.
    Listen,
    /// Hangs up: all is said.
    HangUp,
    /// Hangs up: nobody speaks.
    GiveUp,
}

enum State {
    /// For the greeting (no turn), or for the answer to that turn.
    Listening {
        since: Instant,
        turn: Option<usize>,
    },
    Pausing {
        until: Instant,
    },
    Speaking {
        frame: usize,
    },
    Leaving {
        frame: usize,
    },
}

pub(crate) struct Script<'a> {
    plan: &'a CallPlan,
    state: State,
    hang_up_at: Instant,
    random: Random,
    vad: Vad,
    heard: Vec<i16>,
    first_voice: Option<Instant>,
    last_voice: Instant,
    /// Silence heard since the last voice.
    quiet: Duration,
    /// When all that was received will have been played; `None` before the first sound.
    played_until: Option<Instant>,
    longest_gap: Duration,
    unheard: Duration,
    pub(crate) greeting: Option<TurnReport>,
    pub(crate) turns: Vec<TurnReport>,
}

impl<'a> Script<'a> {
    pub(crate) fn new(plan: &'a CallPlan, now: Instant) -> Self {
        let state = match plan.greeting {
            Some(_) => State::Listening {
                since: now,
                turn: None,
            },
            None => State::Pausing { until: now },
        };
        Self {
            plan,
            state,
            hang_up_at: now + Duration::from_millis(plan.talk_ms),
            random: Random::new(plan.seed),
            vad: Vad::new(),
            heard: Vec::new(),
            first_voice: None,
            last_voice: now,
            quiet: Duration::ZERO,
            played_until: None,
            longest_gap: Duration::ZERO,
            unheard: Duration::ZERO,
            greeting: None,
            turns: Vec::new(),
        }
    }

    /// Hears mu-law `bytes` that arrived `now`.
    pub(crate) fn hear(&mut self, now: Instant, bytes: &[u8]) {
        let start = self.played_until.map_or(now, |until| {
            self.longest_gap = self.longest_gap.max(now.saturating_duration_since(until));
            until.max(now)
        });
        let until = start + Duration::from_millis(audio::duration_ms(bytes.len()));
        self.played_until = Some(until);
        let listening = matches!(self.state, State::Listening { .. });
        if !listening || !self.plan.listen || self.heard.len() > HEARD_SAMPLES_MAX {
            self.heard.clear();
        }
        let before = self.heard.len();
        audio::decode_into(bytes, &mut self.heard);
        let (mut voice, quiet) = (false, &mut self.quiet);
        self.vad.push(&self.heard[before..], |voiced| {
            voice |= voiced;
            *quiet = if voiced {
                Duration::ZERO
            } else {
                *quiet + VAD_FRAME
            };
        });
        if voice {
            self.last_voice = until;
            if listening {
                self.first_voice.get_or_insert(start);
            }
        }
    }

    /// Forgets what was received and not played yet.
    pub(crate) fn clear(&mut self, now: Instant) {
        self.played_until = self.played_until.map(|until| until.min(now));
        self.last_voice = self.last_voice.min(now);
    }

    /// When all that was received so far will have been played.
    pub(crate) fn played_until(&self, now: Instant) -> Instant {
        self.played_until.map_or(now, |until| until.max(now))
    }

    /// The call ends `now`: a line that was dead until then had its gap too.
    pub(crate) fn end(&mut self, now: Instant) {
        let gap = self
            .played_until
            .map(|until| now.saturating_duration_since(until));
        self.longest_gap = self.longest_gap.max(gap.unwrap_or_default());
    }

    /// Longest time the line was dead after its first sound.
    pub(crate) fn longest_gap_ms(&self) -> u64 {
        millis(self.longest_gap)
    }

    /// One tick of 20 ms.
    pub(crate) fn tick(&mut self, now: Instant) -> Act {
        match self.state {
            State::Listening { since, turn } => self.listen(now, since, turn),
            State::Pausing { until } => {
                if self.is_over(now) {
                    self.state = State::Leaving { frame: 0 };
                } else if now >= until && !self.plan.turns.is_empty() {
                    self.state = State::Speaking { frame: 0 };
                }
                Act::Listen
            }
            State::Speaking { frame } => {
                let turn = self.turns.len() % self.plan.turns.len();
                let say = self.plan.turns[turn].say.clone();
                self.state = State::Speaking { frame: frame + 1 };
                if frame + 1 >= say.voiced_frames() {
                    self.heard.clear();
                    self.first_voice = None;
                    self.state = State::Listening {
                        since: now,
                        turn: Some(turn),
                    };
                }
                Act::Say(say, frame)
            }
            State::Leaving { frame } => {
                let bye = Clip::Bye.audio();
                if !self.plan.say_bye || frame >= bye.frames().len() {
                    return Act::HangUp;
                }
                self.state = State::Leaving { frame: frame + 1 };
                Act::Say(bye, frame)
            }
        }
    }

    /// Without a set length, a call is over after one round of its turns; with one, after it, though
    /// not before something was asked.
    fn is_over(&self, now: Instant) -> bool {
        if self.plan.talk_ms == 0 {
            self.turns.len() >= self.plan.turns.len()
        } else {
            now >= self.hang_up_at && (!self.turns.is_empty() || self.plan.turns.is_empty())
        }
    }

    fn listen(&mut self, now: Instant, since: Instant, turn: Option<usize>) -> Act {
        let within_ms = match (turn, &self.plan.greeting) {
            (Some(turn), _) => self.plan.turns[turn].within_ms,
            (None, greeting) => greeting.as_ref().map_or(0, |greeting| greeting.within_ms),
        };
        let within = Duration::from_millis(within_ms);
        let over = match self.first_voice {
            Some(_) => self.has_settled(now) || now >= since + within + ANSWER_MAX,
            None => now >= since + within,
        };
        if !over {
            return Act::Listen;
        }
        self.report(since, turn);
        self.unheard = match self.first_voice {
            Some(_) => Duration::ZERO,
            None => self.unheard + within,
        };
        if !self.unheard.is_zero() && self.unheard >= Duration::from_millis(self.plan.patience_ms) {
            return Act::GiveUp;
        }
        let pause = Duration::from_millis(self.random.below(PAUSE_MS_MAX));
        self.state = State::Pausing { until: now + pause };
        Act::Listen
    }

    /// Whether the agent has finished its sentence.
    fn has_settled(&self, now: Instant) -> bool {
        let silent = self.quiet >= SETTLE && now >= self.last_voice + SETTLE;
        silent || self.played_until.is_none_or(|until| now >= until + DEAD)
    }

    fn report(&mut self, since: Instant, turn: Option<usize>) {
        let plan = self.plan;
        let expect = match turn {
            Some(turn) => plan.turns[turn].expect.as_ref(),
            None => plan
                .greeting
                .as_ref()
                .and_then(|greeting| greeting.audio.as_ref()),
        };
        let expect = expect.filter(|_| plan.listen && self.first_voice.is_some());
        let similarity =
            expect.map(|audio| Fingerprint::of(&self.heard).likeness(audio.fingerprint()));
        let report = TurnReport {
            said: turn.map(|turn| plan.turns[turn].say.name().to_owned()),
            voice_ms: self
                .first_voice
                .map(|at| millis(at.saturating_duration_since(since))),
            similarity,
            heard: self.first_voice.is_some() && similarity.is_none_or(|s| s >= LIKENESS_MIN),
        };
        match turn {
            Some(_) => self.turns.push(report),
            None => self.greeting = Some(report),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
