"""Stop strings: found across pieces of text, held back while they may still come, cut exactly."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Passes text through until one of `stops` is complete.

    Of several, the one that is complete first counts, and of those the longest: how the text was cut into
    pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show now, and whether a stop string was found right behind it."""
        text = self._held + text
        found = self._first(text)
        if found is not None:
            self._held = ""
            return text[:found], True
        hold = self._open_suffix(text)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold], False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> int | None:
        """Where the stop string that ends first begins."""
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(ends)[1] if ends else None

    def _open_suffix(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-size:]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
