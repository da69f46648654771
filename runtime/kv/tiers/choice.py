"""Load a prefix, or compute it? Both are predicted from what was measured; the cheapest split of the prompt wins."""

from __future__ import annotations

from collections.abc import Sequence

_WEIGHT = 0.2
"""Of the newest measurement."""


def useful_prefix(load_s: Sequence[float], compute_s: float, start_s: float) -> int:
    """How many leading blocks to load so that the whole prefix is there soonest.

    `load_s`: what each block takes to load, in order; `compute_s`: what any takes to compute; `start_s`: what loading
    takes before its first byte. Ties go to loading: it leaves the engine to others.
    """
    best, least, loading = 0, len(load_s) * compute_s, start_s
    for count, seconds in enumerate(load_s, 1):
        loading += seconds
        total = loading + (len(load_s) - count) * compute_s
        if total <= least:
            best, least = count, total
    return best


class PrefillSpeed:
    """Seconds per prompt token, smoothed over the engine's steps; None until a prefill was seen."""

    def __init__(self) -> None:
        self.seconds_per_token: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """A step computed so many prompt tokens."""
        if tokens < 1:
            return
        sample, known = seconds / tokens, self.seconds_per_token
        self.seconds_per_token = sample if known is None else (1 - _WEIGHT) * known + _WEIGHT * sample
