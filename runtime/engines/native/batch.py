"""A step as tensors: every token of every chunk in one row, decodes first, the shorter before the longer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamoc.runtime.engines.native.sequence import Chunk, Sequence, Step


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one sequence: tokens `start` to `start + count`, whose context is in `blocks`."""

    row: int
    start: int
    count: int
    blocks: list[int]

    @property
    def length(self) -> int:
        """Tokens of context after the step."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors are int64 over rows. `slots` are `block × block_size + offset`; `decodes` have one row each.

    `sampled` are the sequences to sample for, in the order of the step; `sampled_rows` their last rows.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    decodes: list[Span]
    prefills: list[Span]
    sampled: list[Sequence]
    sampled_rows: Tensor


def build_batch(step: Step, block_size: int) -> Batch:
    """Lay a step out."""
    order = sorted(range(len(step.chunks)), key=lambda index: _weight(step.chunks[index]))
    spans: list[Span] = []
    tokens: list[int] = []
    last_row = [0] * len(step.chunks)
    for index in order:
        chunk = step.chunks[index]
        end = chunk.start + chunk.count
        blocks = chunk.sequence.blocks[: -(-end // block_size)]
        spans.append(Span(len(tokens), chunk.start, chunk.count, blocks))
        tokens += chunk.sequence.tokens[chunk.start : end]
        last_row[index] = len(tokens) - 1
    positions, slots = _places(spans, block_size)
    decodes = sum(span.count == 1 for span in spans)
    sampled = [index for index, chunk in enumerate(step.chunks) if chunk.sample]
    return Batch(
        tokens=torch.tensor(tokens),
        positions=torch.from_numpy(positions),
        slots=torch.from_numpy(slots),
        decodes=spans[:decodes],
        prefills=spans[decodes:],
        sampled=[step.chunks[index].sequence for index in sampled],
        sampled_rows=torch.tensor([last_row[index] for index in sampled], dtype=torch.int64),
    )


def _weight(chunk: Chunk) -> tuple[bool, int]:
    return chunk.count > 1, chunk.start


def _places(spans: list[Span], block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Position and slot of every row."""
    positions = np.concatenate([np.arange(span.start, span.length) for span in spans])
    blocks = [np.asarray(span.blocks)[np.arange(span.start, span.length) // block_size] for span in spans]
    return positions, np.concatenate(blocks) * block_size + positions % block_size
