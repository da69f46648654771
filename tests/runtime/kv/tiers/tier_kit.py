"""A device full of random blocks, prompts as chains of pages, and a stack of tiers to move them through."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import xxhash

from dynamoc.runtime.kv.hashing import extend
from dynamoc.runtime.kv.layout import Heads, KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.device import HostDevice
from dynamoc.runtime.kv.tiers.load import Load
from dynamoc.runtime.kv.tiers.page import PageKey, page_format, page_name
from dynamoc.runtime.kv.tiers.stack import TierStack
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier

LAYOUT = KvLayout(layers=3, heads=2, head_dim=8, block_size=4, dtype="float32", item_bytes=4)
FRAME = page_format(LAYOUT, "m").frame_bytes
LAYERED = KvLayout(layers=3, heads=2, head_dim=32, block_size=16, dtype="float32", item_bytes=4)
"""Of this one, each layer is a group."""
WAIT_S = 30.0


def chain(seed: object, length: int, after: Sequence[PageKey] = ()) -> list[PageKey]:
    """The pages of a prompt; `after` is the prompt it continues."""
    parent = after[-1] if after else None
    keys = []
    for number in range(length):
        tokens = f"{seed} {number}".encode()
        name, above = (parent.name, parent.sequence_hash) if parent else (None, None)
        local = xxhash.xxh3_64_intdigest(tokens)
        parent = PageKey(page_name(name, tokens), name, extend(above, local), local, above)
        keys.append(parent)
    return keys


def content(key: PageKey, size: int) -> bytes:
    """The KV of a page, different for each."""
    return random.Random(key.name).randbytes(size)


class Rig:
    """Blocks of a device, and the tiers below it."""

    def __init__(self, cache: CacheSettings, blocks: int = 64, layout: KvLayout = LAYOUT, **options: object) -> None:
        self.pool = HostPool(layout, blocks)
        heads = options.pop("heads", None)
        assert heads is None or isinstance(heads, Heads)
        self.device = HostDevice(self.pool, page_format(layout, "m", heads))
        self.size = layout.block_bytes
        self.changed = threading.Event()
        self.arrived: Callable[[Load], None] | None = None
        self.read: list[int] = []
        self.stack = TierStack(self.device, cache, self.read.extend, self.changed.set, **options)  # type: ignore[arg-type]

    def in_pieces(self) -> None:
        """From now on let every tier that can give pieces of pages give the smallest, however small these pages are."""
        self.arrived = lambda _load: None
        for tier in (self.stack.host, *self.stack.stores):
            if tier is not None and tier.least_read_bytes is not None:
                tier.least_read_bytes = 0

    def store(self, keys: Sequence[PageKey], touches: int = 1) -> list[int]:
        """Compute a prompt's blocks and offer them; returns when all copies have completed."""
        blocks = list(range(len(keys)))
        for key, block in zip(keys, blocks, strict=True):
            self.pool.block(block)[:] = content(key, self.size)
        taken: list[int] = []
        for _ in range(touches):
            self.stack.offloader.touch(keys)
            taken += self.stack.offloader.offer(list(zip(keys, blocks, strict=True)))
            self.settle()
        assert sorted(self.read) == sorted(taken), "every block is given back once"
        self.read.clear()
        return taken

    def load(self, keys: Sequence[PageKey], first_block: int = 0) -> int:
        """Load what the tiers hold; how many leading blocks came, each of them checked."""
        blocks = range(first_block, first_block + len(keys))
        for block in blocks:
            self.pool.block(block)[:] = b"\xaa" * self.size
        over = threading.Event()
        found = self.stack.onboarder.look_up(keys, None)
        load = self.stack.onboarder.load(found, blocks, lambda _load: over.set(), self.arrived)
        if load is None:
            return 0
        assert over.wait(WAIT_S), "a load must end"
        return self.verified(keys, load)

    def verified(self, keys: Sequence[PageKey], load: Load) -> int:
        """How many leading blocks a load brought; AssertionError if any of them is wrong."""
        for key, block in list(zip(keys, load.blocks, strict=False))[: load.prefix]:
            assert bytes(self.pool.block(block)) == content(key, self.size), "a wrong block"
        return load.prefix

    def settle(self) -> None:
        """Wait until no copy is under way."""
        deadline = time.monotonic() + WAIT_S
        while not self.stack.idle():
            assert time.monotonic() < deadline, "copies do not end"
            time.sleep(0.0005)
        self.stack.check_integrity()

    def close(self) -> None:
        self.stack.close()
        self.device.close()
        self.pool.close()


@contextlib.contextmanager
def rig(cache: CacheSettings, blocks: int = 64, layout: KvLayout = LAYOUT, **options: object) -> Iterator[Rig]:
    """A rig for one test."""
    made = Rig(cache, blocks, layout, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def host(pages: int = 64, admission: str = "all") -> CacheSettings:
    return CacheSettings(host_bytes=pages * FRAME, admission=admission)


def disk(folder: Path, pages: int = 64, admission: str = "all") -> CacheSettings:
    return CacheSettings(disk=DiskTier(str(folder), pages * FRAME), admission=admission)


def objects(folder: Path, pages: int | None = None) -> CacheSettings:
    size = None if pages is None else pages * FRAME
    return CacheSettings(object=ObjectTier(f"file://{folder}", size), admission="all")
