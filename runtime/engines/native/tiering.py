"""Between the scheduler and the KV tiers: what a prompt finds below the device, and what of it goes down there."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

import xxhash

from dynamoc.runtime.engines.native.arriving import Arriving
from dynamoc.runtime.engines.native.blocks import BlockManager, Node
from dynamoc.runtime.engines.native.sequence import Sequence, Step
from dynamoc.runtime.kv.hashing import SEED, extend
from dynamoc.runtime.kv.tiers.choice import PrefillSpeed, comes_in_time
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.onboard import Found
from dynamoc.runtime.kv.tiers.page import PageKey, page_name
from dynamoc.runtime.kv.tiers.stack import TierStack

HELD_SHARE = 2
"""While copies keep more than one block in so many of the pool in use, no others are begun."""


@dataclass(slots=True, eq=False)
class _Reading:
    """The leading blocks of a prefix, in use until copies have read those that are `left`.

    All of them: a block that is used without its parent could outlive it.
    """

    blocks: list[int]
    left: set[int]


class Tiering:
    """The tiers as one scheduler uses them. Not thread-safe: copies report through the engine's commands."""

    def __init__(
        self,
        stack: TierStack,
        blocks: BlockManager,
        on_loaded: Callable[[int, Load], None],
        on_arrived: Callable[[int], None],
    ) -> None:
        self.speed = PrefillSpeed()
        self._reading: list[_Reading] = []
        self._stack = stack
        self._blocks = blocks
        self._on_loaded = on_loaded
        self._on_arrived = on_arrived
        self._loading: dict[int, tuple[Load, bytes]] = {}
        self._late: set[Load] = set()
        self._pack = struct.Struct(f"<{blocks.block_size}I").pack

    @property
    def held(self) -> list[list[int]]:
        """Blocks that are in use because of copies, beside whoever else uses them."""
        return [reading.blocks for reading in self._reading]

    # ---- up -----------------------------------------------------------------------------------------------

    def look_up(self, tokens: Items[int]) -> Found:
        """What the tiers hold of a prompt after what is on the device, short of its last token."""
        block_s = self.speed.seconds(self._blocks.block_size)
        return self._stack.onboarder.look_up(self._below_device(tokens), block_s, overlap=True)

    def look_up_beside(self, tokens: Items[int], answer_s: float | None) -> Found:
        """The same of a prompt the rest of which a peer is foreseen to have written in `answer_s`."""
        return self._stack.onboarder.look_up_beside(self._below_device(tokens), answer_s)

    def is_under_way(self, found: Found) -> bool:
        """Whether another request is loading the same prefix: it is worth waiting for."""
        first = found.keys[0].name if found.useful else b""
        return any(name == first for _, name in self._loading.values())

    def load(self, sequence: Sequence, found: Found, *, overlap: bool = False) -> int:
        """Begin to fill a sequence's own blocks; how many, 0 if there is nothing to load after all.

        With `overlap`, first layers first, as soon as it is known what computing takes.
        """
        onboarder = self._stack.onboarder
        onboarder.decided(found)
        if not found.useful:
            return 0
        first = sequence.computed // self._blocks.block_size
        blocks, key = sequence.blocks[first : first + found.useful], sequence.key
        in_pieces = overlap and self.speed.seconds_per_token is not None
        arrived = (lambda _load: self._on_arrived(key)) if in_pieces else None
        load = onboarder.load(found, blocks, lambda load: self._on_loaded(key, load), arrived)
        if load is None:
            return 0
        self._loading[key] = load, found.keys[0].name
        return len(load.blocks)

    def is_loading(self, key: int) -> bool:
        """Whether a sequence's blocks are still being filled."""
        return key in self._loading

    def load_of(self, key: int) -> Load:
        """That of a sequence that is loading."""
        return self._loading[key][0]

    def comes_in_time(self, load: Load, tokens: int) -> bool:
        """Whether a step that computes so many tokens now would, as far as can be foreseen, wait for no layer."""
        seconds = self.speed.seconds_per_token
        if seconds is None or load in self._late or load.is_short:
            return load.groups_there == load.groups
        return comes_in_time(load.groups_there, load.groups, time.monotonic() - load.started, tokens * seconds)

    def was_late(self, load: Load) -> None:
        """A step waited for it in vain: none does so again."""
        self._late.add(load)

    def loaded(self, key: int, load: Load) -> int | None:
        """A load is over: how many of the sequence's next blocks hold their content. None: it was forgotten."""
        if self._loading.get(key, (None,))[0] is not load:
            return None
        del self._loading[key]
        self._late.discard(load)
        return load.prefix

    def forget(self, key: int) -> None:
        """The sequence is dropped: nothing writes to its blocks when this returns."""
        loading = self._loading.pop(key, None)
        if loading is not None:
            self._late.discard(loading[0])
            loading[0].revoke()

    # ---- down ---------------------------------------------------------------------------------------------

    def touch(self, sequence: Sequence) -> None:
        """A sequence's registered blocks were used: what is worth it goes down."""
        pages = [(_key(node), node.block) for node in self._nodes(sequence.blocks)]
        if not pages:
            return
        offloader = self._stack.offloader
        offloader.touch([key for key, _ in pages])
        if sum(map(len, self.held)) * HELD_SHARE >= self._blocks.total:
            return
        taken = set(offloader.offer(pages))
        if taken:
            used = sequence.blocks[: 1 + max(n for n, (_, block) in enumerate(pages) if block in taken)]
            self._blocks.hold(used)
            self._reading.append(_Reading(used, taken))

    def read(self, blocks: list[int]) -> None:
        """Copies are done with these blocks."""
        for block in blocks:
            reading = next(reading for reading in self._reading if block in reading.left)
            reading.left.remove(block)
            if not reading.left:
                self._reading.remove(reading)
                self._blocks.release(reading.blocks)

    def observe(self, step: Step, seconds: float, arriving: Arriving | None = None, *, void: bool = False) -> None:
        """Learn how fast prompts are computed, from steps that compute little else; count what had to be waited for."""
        if arriving is not None:
            prompts = sum(chunk.sequence.arriving is not None for chunk in step.chunks)
            self._stack.tally.overlapped(0 if void else prompts, arriving.waited_s, void_steps=int(void))
            seconds -= arriving.waited_s
        if void:
            return
        prompt = sum(chunk.count for chunk in step.chunks if chunk.count > 1)
        if prompt > len(step.chunks):
            self.speed.observe(prompt, seconds)

    def credits(self) -> tuple[float | None, ...]:
        """What a block in G2, G3, G4 saves, as a share of computing it, in steps of a hundredth."""
        seconds = self.speed.seconds_per_token
        return () if seconds is None else self._stack.onboarder.credits(seconds * self._blocks.block_size)

    # ---- inside -------------------------------------------------------------------------------------------

    def _below_device(self, tokens: Items[int]) -> list[PageKey]:
        matched = self._blocks.match(tokens)
        return self._keys(tokens, len(matched), self._blocks.node(matched[-1]) if matched else None)

    def _keys(self, tokens: Items[int], first: int, parent: Node | None) -> list[PageKey]:
        """The pages of a prompt's full blocks from number `first` on, which follow `parent`."""
        name = parent.name if parent else None
        sequence = parent.sequence_hash if parent else None
        size, keys = self._blocks.block_size, []
        for start in range(first * size, (len(tokens) - 1) // size * size, size):
            content = self._pack(*tokens[start : start + size])
            local = xxhash.xxh3_64_intdigest(content, SEED)
            key = PageKey(page_name(name, content), name, extend(sequence, local), local, sequence)
            keys.append(key)
            name, sequence = key.name, key.sequence_hash
        return keys

    def _nodes(self, blocks: Items[int]) -> Iterator[Node]:
        for block in blocks:
            node = self._blocks.node(block)
            if node is None:
                return
            yield node


def _key(node: Node) -> PageKey:
    parent = node.parent
    if parent is None:
        return PageKey(node.name, None, node.sequence_hash, node.local_hash, None)
    return PageKey(node.name, parent.name, node.sequence_hash, node.local_hash, parent.sequence_hash)
