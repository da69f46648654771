"""What a session and the owner say to each other: one frame each, with file descriptors beside it.

A session opens; as a writer it allocates, then commits, and is a reader from then on. A reader gets the layout and the
descriptors of all allocations. Or a session keeps: it gets the pool of its name, to read and to write, until it ends.
The session is its connection: with that it ends.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dynamoc.runtime.kv.memory_service.layout import Layout
from dynamoc.runtime.kv.memory_service.lock import Mode


class _Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all frames."""


class Open(_Frame, frozen=True):
    """Ask for a lock; wait for it at most so long."""

    mode: Mode
    limit_s: float


class Writing(_Frame, frozen=True):
    """Nothing is allocated, and nobody else is here."""


class Allocate(_Frame, frozen=True):
    """Ask for memory of at least so many bytes."""

    size: int


class Allocated(_Frame, frozen=True):
    """The allocation `index`, with its descriptor."""

    index: int
    size: int


class Commit(_Frame, frozen=True):
    """Everything is written."""

    layout: Layout


class Reading(_Frame, frozen=True):
    """What is committed; a `Descriptors` follows for each part of the allocations."""

    layout: Layout
    digest: str


class Descriptors(_Frame, frozen=True):
    """The next `count` allocations."""

    count: int


Was = Literal["found", "new", "other"]
"""Of a kept pool: it was there, there was none, or there was one of something else, which is gone."""


class Keep(_Frame, frozen=True):
    """Ask for the pool of this name, for oneself; wait at most so long for the one who has it.

    One with another `identity`, or any with `fresh`, is dropped first, and what is there is all zeros then.
    """

    name: str
    identity: str
    pool_bytes: int
    journal_bytes: int
    fresh: bool
    limit_s: float


class Kept(_Frame, frozen=True):
    """The pool, by a descriptor or a device's `handle`; then the journal's descriptor."""

    was: Was
    handle: bytes


class Refused(_Frame, frozen=True):
    """Why not. The session ends."""

    reason: str


Frame = Open | Writing | Allocate | Allocated | Commit | Reading | Descriptors | Keep | Kept | Refused
