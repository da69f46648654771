"""The seam to a tier that keeps frames outside memory: pages in, pages out, and the tier's own books."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dynamoc.runtime.kv.tiers.lane import Lane
from dynamoc.runtime.kv.tiers.ledger import Entry, Ledger, Skip
from dynamoc.runtime.kv.tiers.page import PageKey
from dynamoc.runtime.kv.tiers.rate import Rate

Frame = tuple[memoryview, ...]
"""A sealed frame: in one piece, or its header and then a page that lies elsewhere and needs no padding."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A page was not stored, or not loaded, because something did not work; `reason` is one word for the metrics.

    A page that is `lost` will not be there the next time either.
    """

    reason: str
    lost: bool = False


class Store(Protocol):
    """A tier below host memory. `write` and `read` block, and are called from its lane."""

    name: str
    ledger: Ledger
    lane: Lane
    reading: Rate
    """Of whole loads, measured by whoever asks for them."""
    latency_s: float
    """From asking for a page to its first byte, about."""
    least_read_bytes: int | None
    """Pieces of pages are worth reading from this size on; None: pages are read whole, and each by itself."""

    @property
    def is_up(self) -> bool:
        """Whether it is to be used now."""
        ...

    def begin(self, key: PageKey) -> Entry | Skip:
        """A place for the page, which `write` then fills or gives back; or why there is none. Does not block."""
        ...

    def write(self, entries: Sequence[Entry], frames: Sequence[Frame]) -> list[Failure | Skip | None]:
        """Fill begun entries from sealed frames; what became of each, None: it is there now.

        Nothing reads the frames any more afterwards.
        """
        ...

    def read(self, entries: Sequence[Entry], pieces: Sequence[memoryview], start: int = 0) -> list[Failure | None]:
        """Fill pieces, all of one size, with what is in the frames of these pinned pages from byte `start` on.

        What went wrong with each; their content is for the caller to check.
        """
        ...

    def discard(self, entry: Entry) -> None:
        """The page is damaged: forget it and get rid of it."""
        ...

    def refresh(self) -> None:
        """Take in what others stored there, if they can."""
        ...

    def close(self, timeout_s: float) -> None:
        """Finish within the time and let go of everything."""
        ...
