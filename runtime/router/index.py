"""Which worker holds which prefix: a radix tree over block hashes, fed by the workers' KV events.

An edge is a block's local hash, so a lookup hashes nothing but the prompt's own blocks. A node keeps, per tier, a
bit mask of its holders. What a worker calls a block (its sequence hash) is only looked up in that worker's own
table: no worker can corrupt what is known of another. A node nobody holds stays while something hangs below it,
and stops every match that reaches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored, KvEvent

TIERS = ("G1", "G2", "G3", "G4")

Matched = tuple[int, int, int, int]
"""Leading blocks a worker holds, each counted in its fastest tier: device, host, disk, object store."""

Status = Literal["ok", "parent_not_found", "block_not_found", "invalid"]


class _Node:
    __slots__ = ("children", "held", "local", "lower", "parent")

    def __init__(self, parent: _Node | None, local: int) -> None:
        self.parent = parent
        self.local = local
        self.children: dict[int, _Node] = {}
        self.held = 0
        """Mask of workers that hold the block in any tier."""
        self.lower: list[int] | None = None
        """Masks per tier, once a worker held the block anywhere but in G1; until then `held` is G1's."""


@dataclass(slots=True)
class _Holder:
    """One worker's side: its bit in the masks, and the node behind each of its sequence hashes."""

    bit: int
    blocks: dict[int, _Node]


@dataclass(frozen=True, slots=True)
class Row:
    """One node of a dump. `parent` is the row number of its parent, -1 for the root.

    `holders` maps each worker to its sequence hash of the block and the tiers that have it.
    """

    parent: int
    local_hash: int
    holders: dict[str, tuple[int, tuple[str, ...]]]


class PrefixIndex:
    """Prefixes and their holders. All operations are O(blocks named); `find` is O(depth) while holders agree."""

    def __init__(self) -> None:
        self._root = _Node(None, 0)
        self._holders: dict[str, _Holder] = {}
        self._names: dict[int, str] = {}

    def add_worker(self, worker: str) -> None:
        """Know a worker, with no blocks; ValueError if it is known already."""
        if worker in self._holders:
            raise ValueError(f"{worker} is in the index already")
        taken = 0
        for bit in self._names:
            taken |= bit
        bit = ~taken & (taken + 1)
        self._holders[worker] = _Holder(bit, {})
        self._names[bit] = worker

    def remove_worker(self, worker: str) -> None:
        """Forget a worker and everything it holds."""
        self.clear(worker)
        del self._names[self._holders.pop(worker).bit]

    def blocks(self, worker: str) -> int:
        """How many blocks a worker holds."""
        return len(self._holders[worker].blocks)

    def find(self, local_hashes: Sequence[int]) -> dict[str, Matched]:
        """For each worker that holds at least the first block: its leading blocks by tier. Changes nothing."""
        depth, alive = 0, -1
        ends: list[tuple[int, int]] = []
        slower: dict[int, list[int]] = {}
        children = self._root.children
        for local in local_hashes:
            node = children.get(local)
            if node is None:
                break
            still = alive & node.held
            if still != alive:
                if alive > 0:
                    ends.append((alive & ~still, depth))
                alive = still
                if not alive:
                    break
            depth += 1
            if node.lower is not None:
                _count_slower(node.lower, alive, slower)
            children = node.children
        if alive > 0:
            ends.append((alive, depth))
        return self._named(ends, slower)

    def apply(self, worker: str, event: KvEvent) -> Status:
        """Take in one event of a worker. Anything but `ok` says that a part of it could not be applied."""
        holder = self._holders[worker]
        if isinstance(event, BlocksStored):
            return self._store(holder, event) if event.tier in TIERS else "invalid"
        if isinstance(event, BlocksRemoved):
            return self._remove(holder, event) if event.tier in TIERS else "invalid"
        self.clear(worker)
        return "ok"

    def clear(self, worker: str) -> None:
        """Drop all blocks of a worker."""
        holder = self._holders[worker]
        for node in holder.blocks.values():
            node.held &= ~holder.bit
            if node.lower is not None:
                node.lower = [mask & ~holder.bit for mask in node.lower]
            _prune(node)
        holder.blocks.clear()

    # ---- rebuilding and checking ----------------------------------------------------------------------

    def dump(self) -> Iterator[Row]:
        """All nodes, parents first."""
        names: dict[int, dict[str, tuple[int, tuple[str, ...]]]] = {}
        for worker, holder in self._holders.items():
            for sequence, node in holder.blocks.items():
                names.setdefault(id(node), {})[worker] = (sequence, _tiers(node, holder.bit))
        queue = [(-1, child) for child in self._root.children.values()]
        for number, (parent, node) in enumerate(queue):
            yield Row(parent, node.local, names.get(id(node), {}))
            queue.extend((number, child) for child in node.children.values())

    @classmethod
    def rebuild(cls, workers: Iterable[str], rows: Iterable[Row]) -> PrefixIndex:
        """The index that a dump was taken of."""
        index = cls()
        for worker in workers:
            index.add_worker(worker)
        nodes = [index._root]
        for row in rows:
            parent = nodes[row.parent + 1]
            node = parent.children[row.local_hash] = _Node(parent, row.local_hash)
            nodes.append(node)
            for worker, (sequence, tiers) in row.holders.items():
                holder = index._holders[worker]
                holder.blocks[sequence] = node
                for tier in tiers:
                    _hold(node, holder.bit, TIERS.index(tier))
        return index

    def check_integrity(self) -> None:
        """AssertionError if the tree and the workers' tables disagree, or a leaf is held by nobody."""
        held: dict[int, int] = {}
        for holder in self._holders.values():
            for node in holder.blocks.values():
                held[id(node)] = held.get(id(node), 0) | holder.bit
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            assert node.held == held.pop(id(node), 0), "masks and tables disagree"
            assert node.held or node.children, "a leaf without a holder"
            if node.lower is not None:
                assert node.held == node.lower[0] | node.lower[1] | node.lower[2] | node.lower[3]
            stack.extend(node.children.values())
        assert not held, "a held block is not in the tree"

    # ---- inside ---------------------------------------------------------------------------------------

    def _store(self, holder: _Holder, event: BlocksStored) -> Status:
        parent = self._root
        if event.parent is not None:
            known = holder.blocks.get(event.parent)
            if known is None:
                return "parent_not_found"
            parent = known
        tier, bit, blocks = TIERS.index(event.tier), holder.bit, holder.blocks
        for block in event.blocks:
            node = parent.children.get(block.local_hash)
            known = blocks.get(block.sequence_hash)
            if known is not None and known is not node:
                return "invalid"  # one name for two blocks
            if node is None:
                node = parent.children[block.local_hash] = _Node(parent, block.local_hash)
            if known is None:
                if node.held & bit:
                    return "invalid"  # two names for one block
                blocks[block.sequence_hash] = node
            if tier == 0 and node.lower is None:
                node.held |= bit
            else:
                _hold(node, bit, tier)
            parent = node
        return "ok"

    def _remove(self, holder: _Holder, event: BlocksRemoved) -> Status:
        status: Status = "ok"
        tier, bit = TIERS.index(event.tier), holder.bit
        for sequence in event.sequence_hashes:
            node = holder.blocks.get(sequence)
            if node is None or not _drop(node, bit, tier):
                status = "block_not_found"
            elif not node.held & bit:
                del holder.blocks[sequence]
                _prune(node)
        return status

    def _named(self, ends: list[tuple[int, int]], slower: dict[int, list[int]]) -> dict[str, Matched]:
        found: dict[str, Matched] = {}
        for mask, depth in ends:
            all_device, rest = (depth, 0, 0, 0), mask
            while rest:
                bit = rest & -rest
                rest ^= bit
                found[self._names[bit]] = all_device
                if bit in slower:
                    host, disk, remote = slower[bit]
                    found[self._names[bit]] = (depth - host - disk - remote, host, disk, remote)
        return found


def _hold(node: _Node, bit: int, tier: int) -> None:
    if tier and node.lower is None:
        node.lower = [node.held, 0, 0, 0]
    if node.lower is not None:
        node.lower[tier] |= bit
    node.held |= bit


def _drop(node: _Node, bit: int, tier: int) -> bool:
    """Whether the worker held the block in that tier, from which it is gone now."""
    if node.lower is None:
        held = bool(node.held & bit) and tier == 0
        node.held &= ~bit if held else -1
        return held
    if not node.lower[tier] & bit:
        return False
    node.lower[tier] &= ~bit
    device, host, disk, remote = node.lower
    node.held = device | host | disk | remote
    if not host | disk | remote:
        node.lower = None
    return True


def _tiers(node: _Node, bit: int) -> tuple[str, ...]:
    if node.lower is None:
        return ("G1",) if node.held & bit else ()
    return tuple(tier for tier, mask in zip(TIERS, node.lower, strict=True) if mask & bit)


def _count_slower(masks: list[int], alive: int, counts: dict[int, list[int]]) -> None:
    """Count the block for those `alive` workers that hold it, but not in G1."""
    rest = alive & ~masks[0]
    for tier in (1, 2, 3):
        here = rest & masks[tier]
        rest &= ~here
        while here:
            bit = here & -here
            here ^= bit
            counts.setdefault(bit, [0, 0, 0])[tier - 1] += 1


def _prune(node: _Node) -> None:
    """Take out a node that nobody holds and nothing hangs below, then its ancestors of that kind."""
    while not node.held and not node.children and node.parent is not None:
        del node.parent.children[node.local]
        node = node.parent
