"""Two sums over a run of bytes that survive re-sharding: those of a whole follow from those of its parts.

Over the little-endian 32-bit words `w[i]` of the run (a last, partial word is filled with zeros), modulo 2^64:
`plain = sum(w[i])` and `weighted = sum((i + 1) * w[i])`. The kernels compute the same while they copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WORD_BYTES = 4
_MODULUS = 1 << 64


class Sums(NamedTuple):
    """Of one run."""

    plain: int
    weighted: int


def sums_of(run: memoryview | bytes | NDArray[np.uint8]) -> Sums:
    """The sums of one run of bytes in host memory."""
    data = np.frombuffer(run, np.uint8)
    padded = np.zeros(-(-data.size // WORD_BYTES) * WORD_BYTES, np.uint8)
    padded[: data.size] = data
    words = padded.view("<u4").astype(np.uint64)
    weights = np.arange(1, words.size + 1, dtype=np.uint64)
    return Sums(int(words.sum()), int((words * weights).sum()))


def combine(parts: Iterable[tuple[int, Sums]]) -> Sums:
    """The sums of a run from those of its parts, each with its offset in words; the parts cover every word once."""
    plain = weighted = 0
    for offset_words, part in parts:
        plain += part.plain
        weighted += part.weighted + offset_words * part.plain
    return Sums(plain % _MODULUS, weighted % _MODULUS)
