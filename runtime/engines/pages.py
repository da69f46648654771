"""Tiny KV pages whose bytes follow from the tokens: every block that is read can be checked without a model."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamoc.runtime.engines.native.sequence import Chunk, Sequence, Step
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool

Words = npt.NDArray[np.uint64]

CHECKED_BLOCKS = 256
"""At most about so many blocks are read again per step; with more in use, the sequences take turns."""

_FORGET_ABOVE = 64


class PageError(RuntimeError):
    """A block does not hold the KV of the tokens it stands for."""


def page_layout(block_size: int) -> KvLayout:
    """One 8-byte word per token."""
    return KvLayout(layers=1, heads=1, head_dim=8, block_size=block_size, dtype="uint8", item_bytes=1, parts=1)


def next_word(word: int, token: int) -> int:
    """The KV of a token, given that of its predecessor: like real KV, it depends on all tokens before."""
    word = ((word ^ token) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
    return word ^ (word >> 31)


@dataclass(slots=True, eq=False)
class Trace:
    """What one sequence's pages must hold: `words[:count]`, in the blocks `ids[: len(blocks)]`."""

    key: int
    words: Words
    ids: npt.NDArray[np.intp]
    blocks: list[int]
    count: int = 0
    word: int = 0
    checked: bool = False


class Pages:
    """The pages of a pool: checks what a step reads, writes what it computes."""

    def __init__(self, pool: HostPool) -> None:
        self._block_size = pool.layout.block_size
        self._pages: Words = np.frombuffer(pool.data, dtype=np.uint64).reshape(pool.blocks, self._block_size)
        self._words = pool.data.cast("Q")
        self._traces: dict[int, Trace] = {}
        self._turn = 0

    def step(self, step: Step) -> list[int]:
        """Check the pages a step reads, then write those of its chunks; the last word of each chunk."""
        traces = [self._trace(chunk) for chunk in step.chunks]
        self._check(traces)
        words = [self._write(trace, chunk) for trace, chunk in zip(traces, step.chunks, strict=True)]
        if len(self._traces) > 2 * len(traces) + _FORGET_ABOVE:
            self._traces = {trace.key: trace for trace in traces}
        return words

    def _trace(self, chunk: Chunk) -> Trace:
        sequence = chunk.sequence
        trace = self._traces.get(sequence.key)
        if trace is None or trace.count != chunk.start:
            trace = self._traces[sequence.key] = self._follow(sequence, chunk.start)
        if trace.blocks != sequence.blocks:
            self._rebind(trace, sequence.blocks)
        return trace

    def _follow(self, sequence: Sequence, count: int) -> Trace:
        """The trace of a sequence whose first `count` tokens were computed elsewhere, or for someone else."""
        trace = Trace(sequence.key, np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.intp), [])
        self._rebind(trace, sequence.blocks)
        self._extend(trace, sequence.tokens[:count])
        return trace

    def _rebind(self, trace: Trace, blocks: list[int]) -> None:
        if len(blocks) > len(trace.ids):
            room = 2 * len(blocks)
            words, trace.words = trace.words, np.zeros(room * self._block_size, dtype=np.uint64)
            trace.words[: len(words)] = words
            trace.ids = np.zeros(room, dtype=np.intp)
        trace.ids[: len(blocks)] = blocks
        trace.blocks = blocks.copy()
        trace.checked = False

    def _extend(self, trace: Trace, tokens: Iterable[int]) -> None:
        word, words = trace.word, []
        for token in tokens:
            word = next_word(word, token)
            words.append(word)
        trace.words[trace.count : trace.count + len(words)] = words
        trace.count, trace.word = trace.count + len(words), word

    def _write(self, trace: Trace, chunk: Chunk) -> int:
        """Begin a page whole: behind its last token it is zero, whatever the block held before."""
        size, start = self._block_size, chunk.start
        if chunk.count == 1 and start % size:
            trace.word = word = next_word(trace.word, chunk.sequence.tokens[start])
            trace.words[start] = self._words[trace.blocks[start // size] * size + start % size] = word
            trace.count += 1
            return word
        self._extend(trace, chunk.sequence.tokens[start : start + chunk.count])
        first, last = start // size, -(-trace.count // size)
        self._pages[trace.ids[first:last]] = trace.words[first * size : last * size].reshape(-1, size)
        return trace.word

    def _check(self, traces: Items[Trace]) -> None:
        """Read what is new to a trace, and as much of the rest as the budget allows."""
        due = [trace for trace in traces if trace.count and not trace.checked]
        budget = CHECKED_BLOCKS - sum([len(trace.blocks) for trace in due])
        for _ in traces:
            self._turn += 1
            trace = traces[self._turn % len(traces)]
            if trace.checked:
                due.append(trace)
                budget -= len(trace.blocks)
            if budget <= 0:
                break
        if not due:
            return
        size = self._block_size
        rows = [-(-trace.count // size) for trace in due]
        actual = self._pages[np.concatenate([trace.ids[:n] for trace, n in zip(due, rows, strict=True)])]
        expected = np.concatenate([trace.words[: n * size] for trace, n in zip(due, rows, strict=True)])
        if not np.array_equal(actual.reshape(-1), expected):
            raise PageError(self._describe(due))
        for trace in due:
            trace.checked = True

    def _describe(self, traces: Items[Trace]) -> str:
        for trace in traces:
            for row in range(-(-trace.count // self._block_size)):
                block = trace.blocks[row]
                expected = trace.words[row * self._block_size : (row + 1) * self._block_size]
                wrong = np.flatnonzero(self._pages[block] != expected)
                if len(wrong):
                    where = f"from token {row * self._block_size + int(wrong[0])} of request {trace.key}"
                    return f"block {block} does not hold the KV {where}"
        return "the pages changed while they were read"
