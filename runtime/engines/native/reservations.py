"""Blocks that peers write: who waits for some, who has them, and which may still be written to."""

from __future__ import annotations

from dynamoc.runtime.engines.native.blocks import BlockManager
from dynamoc.runtime.engines.native.sequence import Sequence
from dynamoc.runtime.engines.protocol import RequestKey, Reserved


class Reservations:
    """`wanted` says for each prompt that waits for blocks in how many seconds a peer is foreseen to have it written.

    `computed` of a sequence in `having` counts what nobody writes to any more.
    """

    def __init__(self, blocks: BlockManager) -> None:
        self.wanted: dict[RequestKey, float | None] = {}
        self.having: dict[RequestKey, Sequence] = {}
        self._blocks = blocks
        self._quarantined: dict[RequestKey, list[int]] = {}

    def set_aside(self, sequence: Sequence, loading: int) -> Reserved:
        """It has its blocks: a peer may write those that neither hold their content nor are being loaded."""
        del self.wanted[sequence.key]
        self.having[sequence.key] = sequence
        resident = sequence.computed // self._blocks.block_size
        self._blocks.lend(sequence.blocks[resident:])
        return Reserved(sequence.key, tuple(sequence.blocks), resident, loading)

    def quarantine(self, key: RequestKey) -> None:
        """Drop a prompt; what a peer was to write of its blocks stays out of use."""
        sequence = self.having.pop(key, None)
        if sequence is not None:
            resident = sequence.computed // self._blocks.block_size
            self._blocks.release(sequence.blocks[:resident])
            self._blocks.quarantine(sequence.blocks[resident:])
            self._quarantined[key] = sequence.blocks[resident:]

    def readmit(self, key: RequestKey) -> None:
        """No peer writes to the blocks of a dropped prompt any more."""
        self._blocks.readmit(self._quarantined.pop(key, ()))
