"""What is known of a trace of requests: the launcher reads the file, the compiler is handed what it says."""

from __future__ import annotations

import msgspec

DEFAULT_BLOCK_TOKENS = 512
"""Tokens that a hash of Mooncake's own traces stands for."""


class Extent(msgspec.Struct, frozen=True):
    """The longest of the first requests of a trace, in tokens, from the `requests`-th on.

    A block that its hashes stand for has from `least_block` to `most_block` tokens; where no line has a hash, any.
    """

    requests: int
    prompt: int
    output: int
    together: int
    least_block: int = 1
    most_block: int | None = None

    def holds_block(self, tokens: int) -> bool:
        """Whether hashes may stand for so many tokens."""
        return self.least_block <= tokens and (self.most_block is None or tokens <= self.most_block)


class TraceFacts(msgspec.Struct, frozen=True):
    """A file of requests in Mooncake's format. `fault` says what is wrong with the line after the first `requests`."""

    path: str
    digest: str = ""
    requests: int = 0
    lasts_s: float = 0.0
    """From the first request to the last, as recorded."""
    extents: tuple[Extent, ...] = ()
    fault: str = ""

    def extent(self, requests: int | None) -> Extent | None:
        """Of so many requests, or of all; None where there is none."""
        within = [one for one in self.extents if requests is None or one.requests <= requests]
        return within[-1] if within else None
