"""Mu-law, rates, and where a sentence ends."""

import unittest
from array import array
from math import pi, sin

import ulaw
from ear import BARGE_IN_MS, ENDPOINT_MS, Ear

QUIET = bytes([ulaw.SILENCE]) * ulaw.FRAME_BYTES


def tone(ms: int, level: int = 8_000) -> list[bytes]:
    count = ulaw.RATE_HZ * ms // 1_000
    samples = (int(level * sin(2 * pi * 440 * n / ulaw.RATE_HZ)) for n in range(count))
    return list(ulaw.frames(ulaw.encode(samples)))


def hear(ear: Ear, frames: list[bytes]) -> list[bytes]:
    return [sentence for frame in frames if (sentence := ear.hear(frame)) is not None]


class MuLaw(unittest.TestCase):
    def test_known_values_of_g711(self):
        for sample, code in ((0, 0xFF), (32_124, 0x80), (-32_124, 0x00), (-8, 0x7E), (1_000, 0xCE)):
            self.assertEqual(ulaw.encode([sample]), bytes([code]), sample)
        self.assertEqual(list(ulaw.decode(b"\x80\x00\xff\x7f")), [32_124, -32_124, 0, 0])

    def test_every_code_comes_back(self):
        for code in range(256):
            # Two codes stand for zero.
            expected = 0xFF if code == 0x7F else code
            self.assertEqual(ulaw.encode(ulaw.decode(bytes([code]))), bytes([expected]))

    def test_the_loudest_samples_are_clipped_and_not_wrapped(self):
        self.assertEqual(ulaw.encode([32_767, -32_768]), b"\x80\x00")

    def test_a_tone_survives_going_up_and_down(self):
        samples = [int(8_000 * sin(2 * pi * 440 * n / 8_000)) for n in range(800)]
        for rate, there in ((16_000, ulaw.to_16k(samples)), (8_000, array("h", samples))):
            back = ulaw.to_8k(there, rate)
            self.assertEqual(len(back), len(samples))
            worst = max(abs(a - b) for a, b in zip(samples[8:-8], back[8:-8]))
            self.assertLess(worst, 1_600, rate)
        self.assertEqual(len(ulaw.to_8k(array("h", [1_000] * 22_050), 22_050)), 8_000)

    def test_the_last_frame_is_filled_with_silence(self):
        self.assertEqual(list(ulaw.frames(b"\x10" * 161))[1], b"\x10" + QUIET[1:])


class Endpointing(unittest.TestCase):
    def test_a_sentence_ends_after_the_quiet_and_not_before(self):
        ear = Ear()
        self.assertEqual(hear(ear, [QUIET] * 50 + tone(600)), [])
        self.assertTrue(ear.is_hearing)
        quiet = [QUIET] * (ENDPOINT_MS // ulaw.FRAME_MS)
        self.assertEqual(hear(ear, quiet[:-1]), [])
        sentences = hear(ear, quiet[:1])
        self.assertEqual(len(sentences), 1)
        self.assertFalse(ear.is_hearing)
        # It holds its soft beginning and the quiet that ended it, not the second before.
        self.assertLess(len(sentences[0]) / ulaw.RATE_HZ, 1.3)

    def test_a_pause_for_breath_ends_nothing(self):
        sentences = hear(Ear(), tone(400) + [QUIET] * 15 + tone(400) + [QUIET] * 30)
        self.assertEqual(len(sentences), 1)

    def test_a_cough_is_no_sentence(self):
        self.assertEqual(hear(Ear(), tone(100) + [QUIET] * 50), [])

    def test_steady_noise_is_no_voice(self):
        ear = Ear()
        noise = tone(3_000, level=200)
        self.assertEqual(hear(ear, noise), [])
        self.assertFalse(ear.is_hearing)

    def test_only_a_lasting_voice_interrupts(self):
        ear = Ear()
        hear(ear, tone(BARGE_IN_MS - ulaw.FRAME_MS))
        self.assertFalse(ear.is_interrupting)
        hear(ear, tone(40))
        self.assertTrue(ear.is_interrupting)
