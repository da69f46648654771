"""An engine's block events in the words of our planes: its hashes are its own, the tokens are the same."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from dynamoc.runtime.kv.hashing import extend, local_hashes, pack_tokens
from dynamoc.runtime.plane.messages import BlocksCleared, BlocksRemoved, BlocksStored, KvEvent, StoredBlock

TIERS: Mapping[str | None, str] = {None: "G1", "GPU": "G1", "CPU": "G2"}
"""Ours by the medium that the engine names."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Block:
    stored: StoredBlock
    parent: int | None
    tiers: set[str] = field(default_factory=set)


class Blocks:
    """What an engine holds, by its own names of blocks. A block it does not name completely is not claimed."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._known: dict[Hashable, _Block] = {}
        self._counts: Counter[str] = Counter()
        self._complained = False

    def count(self, tier: str) -> int:
        """How many blocks are in a tier."""
        return self._counts[tier]

    def stored(
        self,
        hashes: Sequence[Hashable],
        parent: Hashable | None,
        tokens: Sequence[int],
        block_size: int,
        medium: str | None,
    ) -> list[KvEvent]:
        """Consecutive blocks behind `parent` became resident; `tokens` are those of all of them."""
        tier = TIERS.get(medium)
        if tier is None:
            return []
        if block_size != self._block_size or len(tokens) != len(hashes) * block_size:
            self._complain(f"blocks of {block_size} tokens, {len(tokens)} for {len(hashes)} of them")
            return []
        above = None if parent is None else self._known.get(parent)
        if parent is not None and above is None:
            return []  # its content is not known: a claim could be wrong
        before = None if above is None else above.stored.sequence_hash
        new, chain = [], before
        for name, local in zip(hashes, local_hashes(pack_tokens(tokens), block_size), strict=True):
            mine = StoredBlock(extend(chain, local), local)
            block = self._known.setdefault(name, _Block(mine, chain))
            self._counts[tier] += tier not in block.tiers
            block.tiers.add(tier)
            new.append(mine)
            chain = mine.sequence_hash
        return [BlocksStored(tuple(new), before, tier)] if new else []

    def removed(self, hashes: Sequence[Hashable], medium: str | None) -> list[KvEvent]:
        """Blocks left a tier. One that is there twice counts as gone: a block too few costs less than one too many."""
        tier, gone = TIERS.get(medium), []
        for name in hashes:
            block = self._known.get(name)
            if block is not None and tier in block.tiers:
                block.tiers.discard(tier)
                self._counts[tier] -= 1
                gone.append(block.stored.sequence_hash)
                if not block.tiers:
                    del self._known[name]
        return [BlocksRemoved(tuple(gone), tier)] if gone and tier is not None else []

    def cleared(self) -> list[KvEvent]:
        """Nothing is known to be resident any more."""
        was, self._known = self._known, {}
        self._counts.clear()
        return [BlocksCleared()] if was else []

    def resident(self) -> list[KvEvent]:
        """Everything that hangs together from a first block on, parents first; no request could find the rest."""
        children: dict[int | None, list[_Block]] = {}
        for block in self._known.values():
            children.setdefault(block.parent, []).append(block)
        ordered = list(children.get(None, ()))
        for block in ordered:  # it grows meanwhile
            ordered += children.get(block.stored.sequence_hash, ())
        return [BlocksStored((b.stored,), b.parent, tier) for b in ordered for tier in sorted(b.tiers)]

    def _complain(self, what: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("KV events are not taken: %s, the engine said %d at its start", what, self._block_size)
