"""What holds of every transport whose writer stores straight into memory of the destination that it has mapped."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.runtime.transports.process import has_ended, this_process


class MappedDestination:
    """A mapping cannot be taken back: blocks are safe once the writer says that it stopped, or has ended."""

    def expect(self, tag: int, blocks: Sequence[int]) -> None:
        """Nothing to prepare: a peer that mapped the pool can write."""

    async def revoke(self, tag: int) -> bool:
        """The writer must say that it stopped."""
        del tag
        return False

    def writer(self) -> bytes:
        """This process, so that a peer can see when it has ended."""
        return this_process().encode()

    def writer_gone(self, writer: bytes) -> bool:
        """Whether that process has ended; its mappings, and what a driver does for it, end with it."""
        return has_ended(writer)
