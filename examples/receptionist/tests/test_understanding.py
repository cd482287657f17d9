"""What is understood, and what is answered."""

import unittest
from pathlib import Path

import prompt as prompts
import stt
import tts
import ulaw
from brain import Brain, Memory
from faults import Fault

PROMPTS = Path(__file__).parent.parent / "prompts"
AROUND = b"\xff" * 1_600


def desk() -> prompts.Prompt:
    return prompts.load(PROMPTS / "front-desk.toml")


class Grammar(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sentences = desk().sentences()
        cls.recogniser = stt.Recogniser(cls.sentences)

    def recognise(self, codes: bytes):
        return self.recogniser.recognise(AROUND + codes + AROUND)

    def test_the_beginning_of_a_sentence_is_not_the_sentence(self):
        known = frozenset({"what are your opening hours"})
        self.assertEqual(stt.whole("What are your opening hours?", known), *known)
        for heard in ("what are your opening", "your opening hours", "", None, "hours"):
            self.assertIsNone(stt.whole(heard, known), heard)

    def test_every_sentence_is_recognised_in_the_voice_that_needs_only_pip(self):
        library = tts.Library.load()
        for sentence in self.sentences:
            codes = ulaw.encode(tts.levelled(ulaw.to_8k(*library.synthesise(sentence))))
            self.assertEqual(self.recognise(codes), stt.words(sentence))

    def test_other_sentences_are_not_understood_at_all(self):
        speaker = tts.Speaker("rms")
        others = ("what are your opening prices", "the weather in paris is sunny", "where can I")
        for sentence in others:
            self.assertIsNone(self.recognise(speaker.speak(sentence)), sentence)
        self.assertIsNone(self.recognise(b""))

    def test_a_word_that_cannot_be_spelled_is_refused_when_it_starts(self):
        with self.assertRaisesRegex(stt.UnknownWord, "^xyzzyq$"):
            stt.Recogniser(["open the xyzzyq"])

    def test_word_error_rate(self):
        self.assertEqual(stt.word_error_rate("we are open", "we are open"), 0.0)
        self.assertAlmostEqual(stt.word_error_rate("we are open", "we open now"), 2 / 3)
        self.assertEqual(stt.word_error_rate("we are open", None), 1.0)


class Rules(unittest.TestCase):
    def test_a_booking_takes_two_turns_and_survives_being_stored(self):
        brain, memory = Brain(desk()), Memory()
        brain.answer(memory, "can i book a table for tonight")
        self.assertEqual(memory.wants, "people")
        again = Memory.from_json(memory.to_json())
        self.assertEqual(again, memory)
        self.assertEqual(
            brain.welcome_back(again),
            "welcome back. you asked for a table. how many people will you be",
        )
        turn = brain.answer(again, "for four people")
        self.assertEqual(turn.said, "your table for four is booked for tonight")
        self.assertEqual(again.slots, {"people": "four"})

    def test_an_answer_that_nobody_asked_for_means_nothing(self):
        self.assertEqual(Brain(desk()).answer(Memory(), "for four people").topic, "sorry")

    def test_a_stored_state_of_another_release_is_taken_as_far_as_it_is_known(self):
        memory = Memory.from_json({"turns": [{"topic": "weather"}, 3], "slots": None, "new": 1})
        self.assertEqual(Brain(desk()).welcome_back(memory), desk().greeting)

    def test_two_prompts_differ_in_what_they_say(self):
        holidays = prompts.load(PROMPTS / "holidays.toml")
        self.assertNotEqual(holidays.digest, desk().digest)
        self.assertEqual(holidays.sentences(), desk().sentences())
        said = {Brain(p).answer(Memory(), "when are you open").said for p in (desk(), holidays)}
        self.assertEqual(said, {"we are open from nine to five", "we are closed until monday"})

    def test_bad_prompts_say_what_is_wrong(self):
        good = (PROMPTS / "front-desk.toml").read_text()
        for what, bad, why in (
            ('greeting = "hello, ', 'greeting = "" #', "greeting"),
            ('wants = "people"', 'wants = "wine"', "wine"),
            ('"where can I find you"', '"when are you open"', "when are you open"),
            ("[[answers]]", "[answers]", ""),
        ):
            self.assertIn(what, good)
            with self.assertRaisesRegex((prompts.BadPrompt, ValueError), why):
                prompts.parse(good.replace(what, bad))

    def test_faults_are_named_exactly(self):
        self.assertEqual(Fault.parse("slow:700"), Fault("slow", 700))
        self.assertEqual(Fault.parse(""), Fault())
        for bad in ("slow", "slow:", "slow:0", "slow:-1", "deaf", "stt:1"):
            with self.assertRaises(ValueError):
                Fault.parse(bad)


