"""Load a prefix, or compute it? Both are predicted from what was measured; the cheapest split of the prompt wins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_WEIGHT = 0.2
"""Of the newest measurement."""


def useful_prefix(
    load_s: Sequence[float], compute_s: float, start_s: float, pieces: int = 1, more_blocks: int = 0
) -> int:
    """How many leading blocks to load so that the whole prompt is there soonest.

    `load_s`: what each block takes to load, in order; `compute_s`: what any takes to compute; `start_s`: what loading
    takes before its first byte. `more_blocks` are computed in any case; when blocks come in several `pieces`, computing
    hides all of a load, or is hidden by it, but for a piece. Ties go to loading: it leaves the engine to others.
    """
    best, least, loading = 0, (len(load_s) + more_blocks) * compute_s, start_s
    for count, seconds in enumerate(load_s, 1):
        loading += seconds
        computing = (len(load_s) - count + more_blocks) * compute_s
        total = max(loading, computing) + min(loading, computing) / pieces
        if total <= least:
            best, least = count, total
    return best


def hidden_prefix(load_s: Sequence[float], start_s: float, hidden_s: float) -> int:
    """How many leading blocks can be loaded within a time in which somebody else is waited for anyway."""
    ends = itertools.accumulate(load_s, initial=start_s)
    return max(0, sum(end <= hidden_s for end in ends) - 1)


def comes_in_time(there: int, groups: int, elapsed_s: float, compute_s: float) -> bool:
    """Whether computing that begins now finds every group of layers when it needs it.

    `there` of the `groups` came within `elapsed_s`, and the others are taken to follow at that pace; `compute_s`: what
    all layers take to compute, each group its share.
    """
    if there == groups:
        return True
    if not there:
        return False
    load_s, step_s = elapsed_s / there, compute_s / groups
    # The waits for the groups that are not there change by the same amount from each to the next.
    return load_s <= there * step_s and (groups - there) * load_s <= (groups - 1) * step_s


class PrefillSpeed:
    """Seconds per prompt token, smoothed over steps or prompts; None until a prefill was seen."""

    def __init__(self) -> None:
        self.seconds_per_token: float | None = None

    def seconds(self, tokens: int) -> float | None:
        """What so many prompt tokens are foreseen to take."""
        return None if self.seconds_per_token is None else self.seconds_per_token * tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """So many prompt tokens took so long."""
        if tokens < 1:
            return
        sample, known = seconds / tokens, self.seconds_per_token
        self.seconds_per_token = sample if known is None else (1 - _WEIGHT) * known + _WEIGHT * sample
