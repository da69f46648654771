"""How far a step has come: which blocks of prompts for peers are complete, layer group by layer group."""

from __future__ import annotations

from collections.abc import Callable

from dynamoc.runtime.engines.native.sequence import Chunk, Step
from dynamoc.runtime.engines.protocol import Written


def group_ends(layers: int) -> tuple[int, ...]:
    """The last layer of each group, counted from 1. Groups become smaller: what is left after the last layer is little.

    A quarter of the layers at most, then half of that, down to single layers.
    """
    ends, size = [layers], 1
    while ends[0] > size:
        ends.insert(0, ends[0] - size)
        size = size if len(ends) == 2 else min(2 * size, max(1, layers // 4))
    return tuple(ends)


class StepProgress:
    """Tells `on_written` of the `hold_kv` prompts of one step while the step is computed.

    What earlier steps left complete is told at its start, what this one completes after each group of layers.
    """

    def __init__(self, step: Step, layers: int, block_size: int, on_written: Callable[[Written], None]) -> None:
        self.ends = frozenset(group_ends(layers))
        self._chunks = [chunk for chunk in step.chunks if chunk.sequence.hold_kv]
        self._layers = layers
        self._block_size = block_size
        self._on_written = on_written
        self._begun = False
        self._told = 0

    def begin(self, event: int | None = None) -> None:
        """Nothing of the step is computed yet; what came before it is there once `event` has passed."""
        if self._begun:
            return
        self._begun = True
        for chunk in self._chunks:
            sequence, complete = chunk.sequence, chunk.start // self._block_size
            self._tell(chunk, sequence.told, complete, range(self._layers), event)
            sequence.told = complete

    def reached(self, end: int, event: int | None = None) -> None:
        """The first `end` layers are computed, or will be once `event` of the pool's GPU has passed."""
        self.begin(event)
        if end <= self._told:
            return
        for chunk in self._chunks:
            self._tell(chunk, chunk.sequence.told, self._complete(chunk), range(self._told, end), event)
        self._told = end
        if end == self._layers:
            for chunk in self._chunks:
                chunk.sequence.told = self._complete(chunk)

    def finish(self) -> None:
        """The step is computed: tell what was not told."""
        self.reached(self._layers)

    def _complete(self, chunk: Chunk) -> int:
        """Blocks that nothing is added to after the step: the prompt's last one ends with the prompt."""
        end = chunk.start + chunk.count
        return -(-end // self._block_size) if chunk.sample else end // self._block_size

    def _tell(self, chunk: Chunk, first: int, end: int, layers: range, event: int | None) -> None:
        if first < end:
            blocks = tuple(chunk.sequence.blocks[first:end])
            self._on_written(Written(chunk.sequence.key, first, blocks, layers, event))
