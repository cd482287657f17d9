"""Text to speech: flite or espeak-ng where installed, else the espeak-ng library from PyPI.

`RECEPTIONIST_TTS` chooses one of `flite`, `espeak-ng`, `espeakng-loader`.
"""

import ctypes
import io
import os
import shutil
import subprocess
import threading
import wave
from array import array
from collections import OrderedDict

import ulaw

# A sentence takes some 100 ms; a synthesiser that takes this long hangs.
SYNTHESIS_SECONDS_MAX = 10
# Sentences kept in memory, some 20 kB each: an agent says the same few all day.
KEPT_MAX = 256
# Level the loudest sample is brought to: half of what fits, as telephone speech is.
PEAK = 16_000
# Of espeak-ng's voices, the one that pocketsphinx understands best: 17 of 18 sentences, against 8
# for plain en-us.
VOICE = "en-us+f2"
# Quieter than this, the ends of a sentence are cut off: silence before it is felt as slowness.
EDGE_LOUDNESS = 150


class CannotSpeak(RuntimeError):
    """There is no synthesiser, or it failed."""


class Speaker:
    """Speaks sentences in one voice, as mu-law. May be used from several threads."""

    def __init__(self, voice: str = "slt"):
        self.voice = voice
        engines = {"flite": self._flite, "espeak-ng": self._espeak, "espeakng-loader": self._library}
        told = os.environ.get("RECEPTIONIST_TTS")
        found = told or next(filter(shutil.which, ("flite", "espeak-ng")), "espeakng-loader")
        if found not in engines:
            raise CannotSpeak(f"no such synthesiser: {found!r}; there are {', '.join(engines)}")
        self.engine, self._synthesise = found, engines[found]
        if found == "espeakng-loader":
            # What is missing is told at the start.
            Library.load()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._busy = threading.Lock()

    def speak(self, text: str) -> bytes:
        """The sentence as mu-law, without silence at its ends."""
        with self._busy:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        codes = ulaw.encode(levelled(ulaw.to_8k(*self._synthesise(text))))
        codes = trimmed(codes)
        if not codes:
            raise CannotSpeak(f"{self.engine} said nothing for {text!r}")
        with self._busy:
            self._kept[text] = codes
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return codes

    def _flite(self, text: str):
        return _run(["flite", "-voice", self.voice, "-t", text, "-o", "/dev/stdout"])

    def _espeak(self, text: str):
        return _run(["espeak-ng", "-v", VOICE, "--stdout", text])

    def _library(self, text: str):
        return Library.load().synthesise(text)


def _run(command: list[str]):
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SYNTHESIS_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotSpeak(str(error)) from error
    if done.returncode != 0:
        raise CannotSpeak(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return parse_wav(done.stdout)


def parse_wav(data: bytes):
    """Samples and rate of a mono 16-bit WAV. Its header may not know its length: it was a pipe."""
    with wave.open(io.BytesIO(data)) as sound:
        if (sound.getnchannels(), sound.getsampwidth()) != (1, 2):
            raise CannotSpeak("the synthesiser's sound is not 16-bit mono")
        rate_hz = sound.getframerate()
    body = data[data.index(b"data") + 8 :]
    return array("h", body[: len(body) // 2 * 2]), rate_hz


def levelled(samples: array) -> array:
    """The same sound, as loud as telephone speech."""
    peak = max(map(abs, samples), default=0)
    return array("h", (s * PEAK // peak for s in samples)) if peak else samples


def trimmed(codes: bytes) -> bytes:
    """The same sound without the silence at its ends, in whole frames."""
    frames = list(ulaw.frames(codes))
    voiced = [n for n, frame in enumerate(frames) if ulaw.loudness(frame) > EDGE_LOUDNESS]
    return b"".join(frames[voiced[0] : voiced[-1] + 1]) if voiced else b""


class Library:
    """The espeak-ng library that the PyPI package `espeakng-loader` carries, called directly."""

    _one = None
    _loading = threading.Lock()

    def __init__(self):
        try:
            import espeakng_loader
        except ImportError as error:
            raise CannotSpeak(
                "no synthesiser: install flite or espeak-ng, or `pip install espeakng-loader`"
            ) from error
        self._lib = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        data = str(espeakng_loader.get_data_path()).encode()
        # 2: samples are handed to a callback, nothing is played.
        self._rate_hz = self._lib.espeak_Initialize(2, 0, data, 0)
        if self._rate_hz <= 0:
            raise CannotSpeak("espeak-ng found no data")
        self._heard = array("h")
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        # Kept: the library calls it for as long as it lives.
        self._callback = kind(self._take)
        self._lib.espeak_SetSynthCallback(self._callback)
        if self._lib.espeak_SetVoiceByName(VOICE.encode()) != 0:
            raise CannotSpeak(f"espeak-ng has no voice {VOICE}")
        self._busy = threading.Lock()

    @classmethod
    def load(cls) -> "Library":
        """The library of this process; it can be initialised only once."""
        with cls._loading:
            if cls._one is None:
                cls._one = cls()
            return cls._one

    def _take(self, samples, count, _events) -> int:
        if samples and count > 0:
            self._heard.frombytes(ctypes.string_at(samples, 2 * count))
        return 0

    def synthesise(self, text: str):
        """Samples and rate."""
        data = text.encode()
        with self._busy:
            self._heard = array("h")
            # 1: the text is UTF-8. The call returns when all of it has been handed over.
            failed = self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, 1, None, None)
            if failed or self._lib.espeak_Synchronize():
                raise CannotSpeak("espeak-ng could not speak")
            return self._heard, self._rate_hz
