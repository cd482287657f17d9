"""Speech to text: pocketsphinx over a closed set of sentences.

A grammar decoder is happy with the beginning of a sentence: "what are your opening prices" comes
out as "what are your opening". So only a whole sentence counts as understood; anything else is
nothing, and the agent asks again rather than guess.
"""

import re
import threading

from pocketsphinx import Decoder

import ulaw


class UnknownWord(ValueError):
    """A sentence holds a word that the pronouncing dictionary lacks."""


def words(sentence: str) -> str:
    """A sentence as the recogniser spells it: lower case, no punctuation."""
    return " ".join(re.findall(r"[a-z']+", sentence.lower()))


def whole(heard: str | None, sentences: frozenset[str]) -> str | None:
    """What was heard, if it is one of the sentences from its first word to its last."""
    spelled = words(heard or "")
    return spelled if spelled in sentences else None


class Recogniser:
    """Knows some sentences and recognises each as a whole. One serves all calls of a process."""

    def __init__(self, sentences):
        self.sentences = frozenset(filter(None, map(words, sentences)))
        if not self.sentences:
            raise ValueError("there is no sentence to recognise")
        self._decoder = Decoder(samprate=16_000, lm=None, loglevel="FATAL")
        missing = sorted(
            word
            for word in set(" ".join(self.sentences).split())
            if self._decoder.lookup_word(word) is None
        )
        if missing:
            raise UnknownWord(", ".join(missing))
        grammar = "#JSGF V1.0;\ngrammar sentences;\npublic <sentence> = {};\n"
        self._decoder.add_jsgf_string("sentences", grammar.format(" | ".join(sorted(self.sentences))))
        self._decoder.activate_search("sentences")
        self._busy = threading.Lock()

    def recognise(self, codes: bytes) -> str | None:
        """The sentence in this mu-law audio, or None."""
        samples = ulaw.to_16k(ulaw.decode(codes))
        # A decoder hears one sentence at a time; a sentence takes it some 30 ms.
        with self._busy:
            self._decoder.start_utt()
            self._decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
            self._decoder.end_utt()
            guess = self._decoder.hyp()
        return whole(guess.hypstr if guess else None, self.sentences)


def word_error_rate(expected: str, heard: str | None) -> float:
    """Words to add, drop or change, per word of what was expected."""
    wanted, got = words(expected).split(), words(heard or "").split()
    row = list(range(len(got) + 1))
    for i, want in enumerate(wanted, 1):
        last, row[0] = row[0], i
        for j, word in enumerate(got, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (want != word))
    return row[-1] / len(wanted) if wanted else float(bool(got))
