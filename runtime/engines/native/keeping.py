"""Between the block manager and the journal of a kept pool: what is found at the start, what is written from then on.

A block that was recorded is verified against its digest before anybody hears of it. It was never one that a peer may
still be writing to: those are recorded as lent, and stay out of use until it is known that nobody does.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from dynamoc.runtime.engines.native.blocks import BlockManager, Node
from dynamoc.runtime.engines.protocol import Recovery
from dynamoc.runtime.kv.memory_service.journal import JournalError, Record
from dynamoc.runtime.kv.memory_service.kept import KeptPool

log = logging.getLogger("dynamoc.engine")

Post = Callable[[Callable[[], None]], None]


class Keeping:
    """One pool's. A witness in the engine's thread; what concerns writers is called from the worker's loop."""

    def __init__(self, kept: KeptPool, blocks: BlockManager, post: Post) -> None:
        """Takes over what is right of what is there. `post` calls something in the engine's thread."""
        self._kept = kept
        self._blocks = blocks
        self._post = post
        self._fresh: dict[int, Node] = {}
        self._held_back = sorted(kept.left.held_back)
        self.writers = kept.left.writers
        """Those who could write to lent blocks in an earlier life."""
        self.recovery = self._recover(kept.left.records)
        if self.writers:
            blocks.withhold(self._held_back)
        else:
            kept.journal.erase(self._held_back)
        blocks.witness = self

    # ---- the engine's thread ------------------------------------------------------------------------------

    def stored(self, node: Node) -> None:
        """Recorded at the next `flush`."""
        self._fresh[node.block] = node

    def erased(self, blocks: Sequence[int]) -> None:
        """Recorded at once."""
        for block in blocks:
            self._fresh.pop(block, None)
        self._kept.journal.erase(blocks)

    def lent(self, blocks: Sequence[int]) -> None:
        """Recorded at once."""
        self._kept.journal.lend(blocks)

    def flush(self) -> None:
        """Record what was stored, once it has been computed."""
        if not self._fresh:
            return
        digests = self._kept.digests(list(self._fresh))
        for (block, node), digest in zip(self._fresh.items(), digests, strict=True):
            parent = node.parent.name if node.parent else None
            self._kept.journal.store(block, Record(parent, node.tokens, digest))
        self._fresh.clear()

    # ---- the worker's loop --------------------------------------------------------------------------------

    def is_kept(self) -> bool:
        """Whether the pool would be there again."""
        return self._kept.is_kept()

    def admit(self, writer: bytes) -> None:
        """This process may be asked to write."""
        self._kept.journal.admit(writer)

    def dismiss(self, writer: bytes) -> None:
        """It writes nothing any more."""
        # A journal that is damaged costs the next life the pool; it is no reason to end this one.
        with contextlib.suppress(JournalError):
            self._kept.journal.dismiss(writer)

    def readmit(self) -> None:
        """Nobody writes any more to what was lent in an earlier life."""
        held, self._held_back = self._held_back, []
        self._post(lambda: self._blocks.readmit(held))

    # ---- inside -------------------------------------------------------------------------------------------

    def _recover(self, records: Mapping[int, Record]) -> Recovery:
        found = list(records)
        digests = self._kept.digests(found)
        right = [block for block, digest in zip(found, digests, strict=True) if digest == records[block].digest]
        adopted = self._blocks.adopt({block: (records[block].parent, records[block].tokens) for block in right})
        self._kept.journal.erase([block for block in found if block not in adopted])
        recovery = Recovery(
            verified=len(adopted),
            wrong=len(found) - len(right),
            orphaned=len(right) - len(adopted),
            torn=self._kept.left.torn,
            lost_because=self._kept.lost_because,
        )
        log.info(
            "the kept KV pool: %d blocks recovered, %d wrong, %d without a parent, %d torn; %d held back",
            *(recovery.verified, recovery.wrong, recovery.orphaned, recovery.torn, len(self._held_back)),
        )
        return recovery
