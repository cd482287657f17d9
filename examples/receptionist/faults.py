"""How the receptionist is broken, for tests of those who should notice."""

from dataclasses import dataclass

KINDS = ("stt", "llm", "tts", "wrong", "slow:MS")
SLOW_MS_MAX = 60_000


@dataclass(frozen=True)
class Fault:
    """`stt` understands nothing, `llm` has no answer, `tts` no voice, `wrong` says something else,
    `slow:MS` thinks that long. Empty: sound."""

    kind: str = ""
    slow_ms: int = 0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        kind, _, rest = text.partition(":")
        if kind in ("", "stt", "llm", "tts", "wrong") and not rest:
            return cls(kind)
        if kind == "slow" and rest.isdecimal() and 0 < int(rest) <= SLOW_MS_MAX:
            return cls(kind, int(rest))
        raise ValueError(f"no such fault: {text!r}; there are {', '.join(KINDS)}")
