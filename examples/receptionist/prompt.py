"""The prompt: what the receptionist knows and says. A file, so that it can be released alone."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import stt

# A prompt is a page or two; more is another file by mistake.
BYTES_MAX = 64 * 1024


class BadPrompt(ValueError):
    """The file cannot be used, and why."""


@dataclass(frozen=True)
class Answer:
    """A question in all its wordings, and what is said to it."""

    topic: str
    heard: tuple[str, ...]
    say: str
    # What a caller is reminded of who comes back after this question.
    asked: str
    # The slot that the caller is asked to fill next.
    wants: str | None = None


@dataclass(frozen=True)
class Slot:
    """Something a caller is asked for, with the sentences that fill it."""

    heard: dict[str, str]
    say: str
    # Said to a caller who comes back before it was filled.
    again: str


@dataclass(frozen=True)
class Prompt:
    """Everything the file says."""

    greeting: str
    sorry: str
    welcome_back: str
    announce: str
    hand_off: str
    answers: tuple[Answer, ...]
    slots: dict[str, Slot] = field(default_factory=dict)
    digest: str = ""

    def sentences(self) -> list[str]:
        """All that a caller may say."""
        asked = [sentence for answer in self.answers for sentence in answer.heard]
        return asked + [sentence for slot in self.slots.values() for sentence in slot.heard]


def load(path: Path) -> Prompt:
    """Reads and checks a prompt."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadPrompt(f"{path}: {error.strerror}") from error
    if len(data) > BYTES_MAX:
        raise BadPrompt(f"{path}: longer than {BYTES_MAX} bytes")
    try:
        return parse(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, BadPrompt) as error:
        raise BadPrompt(f"{path}: {error}") from error


def parse(text: str) -> Prompt:
    """Reads a prompt from TOML."""
    table = tomllib.loads(text)
    said = {
        key: _text(table, key)
        for key in ("greeting", "sorry", "welcome_back", "announce", "hand_off")
    }
    answers = tuple(_answer(entry) for entry in _list(table, "answers"))
    slots = {name: _slot(name, entry) for name, entry in _table(table, "slots").items()}
    for answer in answers:
        if answer.wants is not None and answer.wants not in slots:
            raise BadPrompt(f"answer {answer.topic!r} wants {answer.wants!r}, which is no slot")
    prompt = Prompt(**said, answers=answers, slots=slots, digest=_digest(text))
    known: set[str] = set()
    for sentence in map(stt.words, prompt.sentences()):
        if not sentence or sentence in known:
            raise BadPrompt(f"the sentence {sentence!r} is empty or stands for two things")
        known.add(sentence)
    return prompt


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _text(table: dict, key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadPrompt(f"`{key}` must be a sentence")
    return value


def _list(table: dict, key: str) -> list:
    value = table.get(key)
    if not isinstance(value, list) or not value:
        raise BadPrompt(f"`{key}` must be a list with at least one entry")
    return value


def _table(table: dict, key: str) -> dict:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise BadPrompt(f"`{key}` must be a table")
    return value


def _answer(entry) -> Answer:
    if not isinstance(entry, dict):
        raise BadPrompt("each of `answers` must be a table")
    topic = _text(entry, "topic")
    heard = _list(entry, "heard")
    if not all(isinstance(sentence, str) for sentence in heard):
        raise BadPrompt(f"`heard` of {topic!r} must be a list of sentences")
    wants = _text(entry, "wants") if "wants" in entry else None
    return Answer(topic, tuple(heard), _text(entry, "say"), _text(entry, "asked"), wants)


def _slot(name: str, entry) -> Slot:
    if not isinstance(entry, dict):
        raise BadPrompt(f"slot {name!r} must be a table")
    heard = _table(entry, "heard")
    if not heard or not all(isinstance(value, str) for value in heard.values()):
        raise BadPrompt(f"`heard` of slot {name!r} must name a value for each sentence")
    return Slot(heard, _text(entry, "say"), _text(entry, "again"))
