"""What the compiler is told of a trace: how many requests, how long the longest, and the first line that is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dynamoc.compiler.trace_facts import Extent, TraceFacts
from dynamoc.launcher.load.point import LoadError
from dynamoc.launcher.load.trace import TraceLine, digest_of, lines_of

MILLI = 1000.0


def facts_of(path: Path) -> TraceFacts:
    """Of the file at a path; never raises, what is wrong with it is one of the facts."""
    path = path.resolve()
    reader = _Reader()
    try:
        digest = digest_of(path)
        reader.read(lines_of(path))
    except LoadError as error:
        return reader.facts(path, fault=str(error))
    fault = "" if reader.requests else f"{path}: a trace without a request"
    return reader.facts(path, digest=digest, fault=fault)


class _Reader:
    """The longest so far."""

    def __init__(self) -> None:
        self.requests = 0
        self._first = self._last = 0.0
        self._extents: list[Extent] = []

    def read(self, lines: Iterable[tuple[str, TraceLine]]) -> None:
        """Line after line; LoadError where no size of block fits the hashes."""
        for place, line in lines:
            seen = self._extents[-1] if self._extents else Extent(0, 0, 0, 0)
            grown = _grown(seen, line, self.requests + 1)
            if grown.most_block is not None and grown.least_block > grown.most_block:
                hashes = f"{len(line.hash_ids)} hashes for {line.input_length} tokens"
                raise LoadError(f"{place}: {hashes}, and no size of block fits this and the lines before")
            self.requests += 1
            self._first = line.timestamp if self.requests == 1 else self._first
            self._last = line.timestamp
            if _bounds(grown) != _bounds(seen):
                self._extents.append(grown)

    def facts(self, path: Path, *, fault: str, digest: str = "") -> TraceFacts:
        """As far as it was read."""
        lasts = (self._last - self._first) / MILLI
        return TraceFacts(str(path), digest, self.requests, lasts, tuple(self._extents), fault)


def _grown(seen: Extent, line: TraceLine, requests: int) -> Extent:
    least, most = seen.least_block, seen.most_block
    blocks = len(line.hash_ids)
    if blocks:
        least = max(least, -(-line.input_length // blocks))
    if blocks > 1:
        largest = -(-line.input_length // (blocks - 1)) - 1
        most = largest if most is None else min(most, largest)
    return Extent(
        requests,
        max(seen.prompt, line.input_length),
        max(seen.output, line.output_length),
        max(seen.together, line.input_length + line.output_length),
        least,
        most,
    )


def _bounds(extent: Extent) -> tuple[int | None, ...]:
    return (extent.prompt, extent.output, extent.together, extent.least_block, extent.most_block)
