"""G.711 mu-law and the few conversions of sound that a phone call needs, without a C extension."""

from array import array
from itertools import accumulate

RATE_HZ = 8_000
FRAME_MS = 20
FRAME_BYTES = RATE_HZ * FRAME_MS // 1_000
# Mu-law for zero, sent where there is nothing to say.
SILENCE = 0xFF

_BIAS = 0x84
_CLIP = 32_635


def _decode_one(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + _BIAS) << ((code & 0x70) >> 4)
    return _BIAS - magnitude if code & 0x80 else magnitude - _BIAS


def _encode_one(sample: int) -> int:
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), _CLIP) + _BIAS
    exponent = magnitude.bit_length() - 8
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return ~(sign | exponent << 4 | mantissa) & 0xFF


_DECODED = [_decode_one(code) for code in range(256)]
_LOUDNESS = [abs(sample) for sample in _DECODED]
# By the sample's 16 bits: a negative index counts from the end, where its two's complement lies.
_ENCODED = bytes(_encode_one(s if s < 32_768 else s - 65_536) for s in range(65_536))


def decode(codes: bytes) -> array:
    """Mu-law bytes as 16-bit samples."""
    return array("h", map(_DECODED.__getitem__, codes))


def encode(samples) -> bytes:
    """16-bit samples as mu-law bytes."""
    return bytes(map(_ENCODED.__getitem__, samples))


def loudness(codes: bytes) -> float:
    """Mean magnitude of mu-law bytes, 0 to 32 124."""
    return sum(map(_LOUDNESS.__getitem__, codes)) / len(codes) if codes else 0.0


def to_16k(samples) -> array:
    """8 kHz as 16 kHz: what lies between two samples is taken from the four around it."""
    ends = [0, *samples, 0, 0]
    out = array("h", bytes(4 * len(samples)))
    out[0::2] = array("h", samples)
    middle = zip(ends, ends[1:], ends[2:], ends[3:])
    between = ((9 * (b + c) - a - d) // 16 for a, b, c, d in middle)
    out[1::2] = array("h", (min(max(s, -32_768), 32_767) for s in between))
    return out


def to_8k(samples, rate_hz: int) -> array:
    """Any rate above 8 kHz as 8 kHz: each sample is the mean of the stretch it stands for."""
    if rate_hz == RATE_HZ:
        return array("h", samples)
    sums = [0, *accumulate(samples)]
    count = len(samples) * RATE_HZ // rate_hz
    edges = [n * rate_hz / RATE_HZ for n in range(count + 1)]

    def area(edge: float) -> float:
        whole = int(edge)
        rest = edge - whole
        return sums[whole] + (rest * (sums[whole + 1] - sums[whole]) if rest else 0.0)

    areas = list(map(area, edges))
    step = rate_hz / RATE_HZ
    return array("h", (int((b - a) / step) for a, b in zip(areas, areas[1:])))


def frames(codes: bytes):
    """Whole frames of 20 ms; the last one is filled up with silence."""
    for start in range(0, len(codes), FRAME_BYTES):
        frame = codes[start : start + FRAME_BYTES]
        yield frame + bytes([SILENCE]) * (FRAME_BYTES - len(frame))
