"""The "language model": rules from the prompt, and what a call remembers."""

from dataclasses import asdict, dataclass, field

import stt
from prompt import Prompt

# Turns remembered of one call; a caller who talks on forgets the first ones.
TURNS_MAX = 100


@dataclass
class Turn:
    """One question and its answer."""

    heard: str | None
    topic: str
    said: str


@dataclass
class Memory:
    """What a call remembers. It is stored as JSON after every turn."""

    turns: list[Turn] = field(default_factory=list)
    slots: dict[str, str] = field(default_factory=dict)
    # The slot the caller was last asked for.
    wants: str | None = None
    # What is being said: a worker that dies has not said it.
    saying: str | None = None

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> "Memory":
        """Takes what is understood of a stored state: another release may have written it."""
        turns = [
            Turn(turn.get("heard"), str(turn["topic"]), str(turn.get("said", "")))
            for turn in data.get("turns") or []
            if isinstance(turn, dict) and "topic" in turn
        ]
        slots = data.get("slots")
        slots = slots if isinstance(slots, dict) else {}
        slots = {str(k): str(v) for k, v in slots.items()}
        wants, saying = data.get("wants"), data.get("saying")
        return cls(turns, slots, wants and str(wants), saying and str(saying))


SORRY = "sorry"


class Brain:
    """Answers by the prompt."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt
        self._answers = {stt.words(s): answer for answer in prompt.answers for s in answer.heard}
        self._slots = {
            stt.words(sentence): (name, value)
            for name, slot in prompt.slots.items()
            for sentence, value in slot.heard.items()
        }
        self._topics = {answer.topic: answer for answer in prompt.answers}

    def answer(self, memory: Memory, heard: str | None) -> Turn:
        """What is said to a sentence; the memory takes it in."""
        turn = self._answer(memory, heard)
        memory.turns.append(turn)
        del memory.turns[:-TURNS_MAX]
        return turn

    def _answer(self, memory: Memory, heard: str | None) -> Turn:
        if heard in self._slots:
            name, value = self._slots[heard]
            # Unasked, "there will be two of us" means nothing.
            if memory.wants == name:
                memory.slots[name] = value
                memory.wants = None
                return Turn(heard, name, self.prompt.slots[name].say.format_map({name: value}))
        elif heard in self._answers:
            answer = self._answers[heard]
            memory.wants = answer.wants or memory.wants
            return Turn(heard, answer.topic, answer.say)
        return Turn(heard, SORRY, self.prompt.sorry)

    def greeting(self) -> str:
        return self.prompt.greeting

    def welcome_back(self, memory: Memory) -> str:
        """Said to a caller who was cut off: what it was about, and what is still to be answered."""
        known = [self._topics[turn.topic] for turn in memory.turns if turn.topic in self._topics]
        if not known:
            return self.prompt.greeting
        said = self.prompt.welcome_back.format_map({"asked": known[-1].asked})
        slot = self.prompt.slots.get(memory.wants or "")
        return f"{said}. {slot.again}" if slot else said

    def go_on(self, memory: Memory) -> str | None:
        """Said to a caller who was not cut off and hears nothing: what another worker was saying when
        it died, or what is still to be answered. None: it is the caller's turn."""
        slot = self.prompt.slots.get(memory.wants or "")
        return memory.saying or (slot.again if slot else None)
