"""Which block of the pool holds what: allocation, sharing of equal prefixes, eviction, quarantine."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import xxhash

from dynamoc.runtime.kv.hashing import SEED, extend
from dynamoc.runtime.kv.tiers.page import page_name
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored, KvEvent, StoredBlock


class IntegrityError(RuntimeError):
    """The bookkeeping contradicts itself: a bug, and no block can be trusted any more."""


@dataclass(slots=True, eq=False)
class Node:
    """A registered block: its place in the tree of prefixes. Equal path from the root, equal content."""

    block: int
    parent: Node | None
    tokens: bytes
    local_hash: int
    sequence_hash: int
    name: bytes
    """What its page is called off the device; cryptographic, unlike the other two."""
    children: dict[bytes, Node] = field(default_factory=dict)


class Witness(Protocol):
    """Hears what becomes of blocks, each time before it can be seen in the pool."""

    def stored(self, node: Node) -> None:
        """The block is whole, or is once the step under way has been computed."""
        ...

    def erased(self, blocks: Sequence[int]) -> None:
        """These hold nothing any more that could be asked for, and no peer writes to them."""
        ...

    def lent(self, blocks: Sequence[int]) -> None:
        """A peer may write to these from now on."""
        ...


class BlockManager:
    """The blocks of one pool.

    Prefixes are matched by walking a tree keyed by the tokens themselves, so a hit is never a hash collision.
    A sequence that uses a block uses all its predecessors, and gives them back last block first: the least
    recently used unused block is therefore always a leaf, and no block outlives its parent.
    """

    def __init__(self, blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs blocks and a block size of at least 1, not {blocks} and {block_size}")
        self.total = blocks
        self.block_size = block_size
        self._prefix_caching = prefix_caching
        self._free = deque(range(blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._quarantined: set[int] = set()
        self._lent: set[int] = set()
        self.witness: Witness | None = None
        self._references = [0] * blocks
        self._nodes: list[Node | None] = [None] * blocks
        self._roots: dict[bytes, Node] = {}
        self._pack = struct.Struct(f"<{block_size}I").pack
        self._events: list[KvEvent] = []
        self._removed: list[int] = []

    @property
    def available(self) -> int:
        """Blocks that can be had now: free ones, and cached ones that nobody uses."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Blocks that nobody uses but whose content may still be asked for."""
        return len(self._cached)

    @property
    def quarantined(self) -> int:
        """Blocks that a peer may still write to."""
        return len(self._quarantined)

    @property
    def active(self) -> int:
        """Blocks in use by sequences."""
        return self.total - self.available - self.quarantined

    def node(self, block: int) -> Node | None:
        """What a block is registered as."""
        return self._nodes[block]

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold that many tokens."""
        return -(-tokens // self.block_size)

    def match(self, tokens: Sequence[int]) -> list[int]:
        """The registered blocks of the longest prefix, short of the last token: that one must be computed."""
        matched: list[int] = []
        level, size = self._roots, self.block_size
        for start in range(0, (len(tokens) - 1) // size * size if self._prefix_caching else 0, size):
            node = level.get(self._pack(*tokens[start : start + size]))
            if node is None:
                break
            matched.append(node.block)
            level = node.children
        return matched

    def allocate(self, tokens: Sequence[int], spare: int = 0) -> tuple[list[int], int] | None:
        """Blocks for all tokens, and how many of them already hold their content.

        None, and nothing changed, unless `spare` blocks stay available besides.
        """
        matched = self.match(tokens)
        fresh = self.blocks_for(len(tokens)) - len(matched)
        unused = sum(1 for block in matched if not self._references[block])
        if fresh + unused + spare > self.available:
            return None
        for block in matched:
            self._share(block)
        return matched + [self._take() for _ in range(fresh)], len(matched)

    def extend(self, blocks: list[int]) -> bool:
        """Append one block to a sequence's; False if there is none."""
        if not self.available:
            return False
        blocks.append(self._take())
        return True

    def register(self, tokens: Sequence[int], blocks: list[int], computed: int, spare: list[int] | None = None) -> None:
        """Offer the full blocks of the first `computed` tokens to others.

        A block whose content is registered already is given back, or kept in use in `spare`, and `blocks` names the
        other one from then on.
        """
        if not self._prefix_caching:
            return
        full = first = computed // self.block_size
        while first and self._nodes[blocks[first - 1]] is None:
            first -= 1
        parent = self._nodes[blocks[first - 1]] if first else None
        run: list[Node] = []
        for position in range(first, full):
            content = self._pack(*tokens[position * self.block_size : (position + 1) * self.block_size])
            known = (parent.children if parent else self._roots).get(content)
            if known is None:
                parent = self._add(blocks[position], parent, content)
                run.append(parent)
                continue
            self._share(known.block)
            if spare is None:
                self.release([blocks[position]])
            else:
                spare.append(blocks[position])
            blocks[position] = known.block
            self._report_stored(run)
            parent, run = known, []
        self._report_stored(run)

    def hold(self, blocks: Sequence[int]) -> None:
        """Use blocks that are in use already once more, until `release`."""
        for block in blocks:
            self._share(block)

    def release(self, blocks: Sequence[int]) -> None:
        """A sequence, or the end of one, is done with its blocks; registered content stays until it is reused."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._nodes[block] is None:
                if block in self._lent:
                    self._return([block])
                self._free.append(block)
            else:
                self._cached[block] = None

    def lend(self, blocks: Sequence[int]) -> None:
        """A peer may write to these blocks of a sequence until they hold their content, or are given back."""
        if self.witness is not None:
            self._lent.update(blocks)
            self.witness.lent(blocks)

    def quarantine(self, blocks: Sequence[int]) -> None:
        """Keep a sequence's own, unregistered blocks out of use until `readmit`."""
        for block in blocks:
            self._references[block] = 0
            self._quarantined.add(block)

    def readmit(self, blocks: Sequence[int]) -> None:
        """Nobody writes to these quarantined blocks any more."""
        self._quarantined.difference_update(blocks)
        self._return(blocks)
        self._free.extend(blocks)

    def withhold(self, blocks: Sequence[int]) -> None:
        """Put free blocks into quarantine."""
        self._leave_free(blocks)
        self.quarantine(blocks)

    def adopt(self, found: Mapping[int, tuple[bytes | None, bytes]]) -> set[int]:
        """Cache what free blocks hold already: tokens, after the block of that name; those that were taken.

        Left alone are those whose parent is not among them, and a second one of the same content.
        """
        by_parent: dict[bytes | None, list[int]] = {}
        for block, (parent, _) in found.items():
            by_parent.setdefault(parent, []).append(block)
        parents: list[Node | None] = [None]
        for parent_node in parents:
            level = parent_node.children if parent_node else self._roots
            followers = by_parent.pop(parent_node.name if parent_node else None, ())
            # One after the other: each is in the level before the next is looked at.
            parents.extend(self._link(b, parent_node, found[b][1]) for b in followers if found[b][1] not in level)
        adopted = [node.block for node in parents if node is not None]
        self._leave_free(adopted)
        # Parents are before what follows them; the least recently used must be a leaf.
        self._cached.update(dict.fromkeys(reversed(adopted)))
        return set(adopted)

    def take_events(self) -> list[KvEvent]:
        """What was stored and removed since the last call, in order."""
        self._flush_removed()
        events, self._events = self._events, []
        return events

    def resident(self) -> list[KvEvent]:
        """Every registered block as stored events, parents first; changes nothing."""
        events: list[KvEvent] = []
        heads = list(self._roots.values())
        while heads:
            run = [heads.pop()]
            while len(run[-1].children) == 1:
                run.extend(run[-1].children.values())
            events.append(_stored(run))
            heads.extend(run[-1].children.values())
        return events

    def check_integrity(self, owners: Iterable[Sequence[int]]) -> None:
        """Every block is free, cached, quarantined or owned as often as it is counted; else IntegrityError."""
        owned = Counter(block for blocks in owners for block in blocks)
        for block, references in enumerate(self._references):
            if references != owned[block]:
                raise IntegrityError(f"block {block} is counted {references} times and used {owned[block]} times")
        places = Counter([*self._free, *self._cached, *self._quarantined, *owned])
        if len(places) != self.total or places.total() != self.total:
            wrong = [block for block in range(self.total) if places[block] != 1]
            raise IntegrityError(f"blocks {wrong} are not in exactly one of free, cached, quarantined, used")
        for block, node in enumerate(self._nodes):
            if node is not None and not self._in_tree(block, node):
                raise IntegrityError(f"block {block} is registered but not where its parent has it")

    def _in_tree(self, block: int, node: Node) -> bool:
        parent = node.parent
        level = self._roots if parent is None else parent.children
        parent_lives = parent is None or self._nodes[parent.block] is parent
        return (
            node.block == block and parent_lives and level.get(node.tokens) is node and block not in self._quarantined
        )

    def _take(self) -> int:
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def _share(self, block: int) -> None:
        if not self._references[block]:
            del self._cached[block]
        self._references[block] += 1

    def _leave_free(self, blocks: Sequence[int]) -> None:
        gone = set(blocks)
        self._free = deque(block for block in self._free if block not in gone)

    def _return(self, blocks: Sequence[int]) -> None:
        self._lent.difference_update(blocks)
        if self.witness is not None:
            self.witness.erased(blocks)

    def _add(self, block: int, parent: Node | None, content: bytes) -> Node:
        node = self._link(block, parent, content)
        if self.witness is not None:
            self._lent.discard(block)
            self.witness.stored(node)
        return node

    def _link(self, block: int, parent: Node | None, content: bytes) -> Node:
        local = xxhash.xxh3_64_intdigest(content, SEED)
        sequence = extend(parent.sequence_hash if parent else None, local)
        node = Node(block, parent, content, local, sequence, page_name(parent.name if parent else None, content))
        (parent.children if parent else self._roots)[content] = node
        self._nodes[block] = node
        return node

    def _forget(self, block: int) -> None:
        node = self._nodes[block]
        assert node is not None
        if node.children:
            raise IntegrityError(f"block {block} is evicted before {len(node.children)} blocks that follow it")
        del (node.parent.children if node.parent else self._roots)[node.tokens]
        self._nodes[block] = None
        self._removed.append(node.sequence_hash)
        if self.witness is not None:
            self.witness.erased([block])

    def _report_stored(self, run: list[Node]) -> None:
        if run:
            self._flush_removed()
            self._events.append(_stored(run))

    def _flush_removed(self) -> None:
        if self._removed:
            self._events.append(BlocksRemoved(tuple(self._removed)))
            self._removed.clear()


def _stored(run: Sequence[Node]) -> BlocksStored:
    parent = run[0].parent
    blocks = tuple(StoredBlock(node.sequence_hash, node.local_hash) for node in run)
    return BlocksStored(blocks, parent.sequence_hash if parent else None)
