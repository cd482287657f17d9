"""Where a sentence begins and ends: voice by its energy, an end by 400 ms of quiet."""

import ulaw

# Quiet after which a sentence is over. Shorter cuts callers off in a pause for breath; longer is
# felt as a slow agent.
ENDPOINT_MS = 400
# Voice a sentence has at least; less is a cough.
VOICE_MS_MIN = 200
# Voice in a row that interrupts the agent: longer than a click or an "uh".
BARGE_IN_MS = 160
# Kept from before the first voiced frame, since words begin softly.
LEAD_FRAMES = 10
# Longest sentence listened to, 15 s; it is ended there.
SENTENCE_FRAMES_MAX = 15_000 // ulaw.FRAME_MS
# Mean magnitude below which nothing is voice, and how far above the line's own noise voice is.
LOUDNESS_MIN = 180.0
NOISE_FACTOR = 3.0
# How fast the estimate of the noise follows a quiet line, per frame.
NOISE_PACE = 0.05


class Voice:
    """Tells voiced frames from the line's noise."""

    def __init__(self):
        self.noise = 0.0

    def is_voiced(self, frame: bytes) -> bool:
        loudness = ulaw.loudness(frame)
        voiced = loudness > max(LOUDNESS_MIN, NOISE_FACTOR * self.noise)
        if not voiced:
            self.noise += NOISE_PACE * (loudness - self.noise)
        return voiced


class Ear:
    """Cuts what is heard into sentences."""

    def __init__(self, endpoint_ms: int = ENDPOINT_MS):
        self.endpoint_ms = endpoint_ms
        self.voice = Voice()
        self._kept: list[bytes] = []
        self._voiced_ms = 0
        self._row_ms = 0
        self._quiet_ms = 0

    @property
    def is_hearing(self) -> bool:
        """Whether somebody is in the middle of a sentence."""
        return self._voiced_ms > 0

    @property
    def is_interrupting(self) -> bool:
        """Whether the voice has lasted long enough to be meant."""
        return self._row_ms >= BARGE_IN_MS

    def hear(self, frame: bytes) -> bytes | None:
        """Takes 20 ms; answers the sentence that they ended."""
        self._kept.append(frame)
        if self.voice.is_voiced(frame):
            self._voiced_ms += ulaw.FRAME_MS
            self._row_ms += ulaw.FRAME_MS
            self._quiet_ms = 0
        else:
            self._row_ms = 0
            self._quiet_ms += ulaw.FRAME_MS
        if not self.is_hearing:
            del self._kept[:-LEAD_FRAMES]
            return None
        if self._quiet_ms < self.endpoint_ms and len(self._kept) < SENTENCE_FRAMES_MAX:
            return None
        sentence, enough = b"".join(self._kept), self._voiced_ms >= VOICE_MS_MIN
        self._kept.clear()
        self._voiced_ms = self._row_ms = self._quiet_ms = 0
        return sentence if enough else None
