"""What it would cost a worker to take a request, in blocks, and the choice among costs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from dynamoc.runtime.router.index import Matched

Credits = tuple[float, float, float]
"""What a block in host memory, on disk, in an object store is worth, where one in device memory is worth 1."""

ASSUMED: Credits = (0.75, 0.25, 0.1)
"""Of a worker that has not measured its tiers yet."""
NOTHING: Matched = (0, 0, 0, 0)


def credits_of(measured: Sequence[float | None]) -> Credits:
    """What a worker measured, and what is assumed where it did not."""
    known = [*measured, None, None, None]
    host, disk, remote = (old if new is None else new for old, new in zip(ASSUMED, known, strict=False))
    return host, disk, remote


def credit(matched: Matched, overlap_credit: float, credits_: Credits = ASSUMED) -> float:
    """Blocks that need not be computed, each discounted by the time its tier needs to bring it back."""
    return overlap_credit * matched[0] + _brought_back(matched, credits_)


def compute_cost(
    prompt_blocks: float, pending_blocks: float, decode_blocks: float, saved: float, prefill_scale: float
) -> float:
    """Cost for a worker that computes the prompt itself.

    `pending_blocks`: prompt blocks it has yet to compute; `decode_blocks`: blocks in use with this request;
    `saved`: the credit for what it holds of the prompt.
    """
    work = pending_blocks + prompt_blocks - saved
    return prefill_scale * work + decode_blocks if work > 0.0 else decode_blocks


def decode_cost(decode_blocks: float, saved: float) -> float:
    """Cost for a worker that gets the prompt's KV from another: its load, less what need not be transferred."""
    return max(0.0, decode_blocks - saved)


def work_tokens(prompt_tokens: int, block_size: int, matched: Matched, credits_: Credits = ASSUMED) -> int:
    """Prompt tokens to compute; to bring one back counts as the share of computing it that it takes."""
    return max(0, round(prompt_tokens - (matched[0] + _brought_back(matched, credits_)) * block_size))


def bypasses_prefill(work: int, bypass_below_tokens: int) -> bool:
    """Whether so little of the prompt is left that the decode worker computes it at once."""
    return work < bypass_below_tokens


def _brought_back(matched: Matched, credits_: Credits) -> float:
    return sum(count * share for count, share in zip(matched[1:], credits_, strict=True))


def pick(costs: Sequence[float], temperature: float, rng: Random) -> int:
    """Position of the chosen cost: the lowest at temperature 0, ties drawn uniformly.

    Above 0, the probability is proportional to exp(-(cost - min) / ((max - min) * temperature)).
    """
    low, high = min(costs), max(costs)
    if low == high:
        return rng.randrange(len(costs))
    if temperature == 0.0:
        if costs.count(low) == 1:
            return costs.index(low)
        return rng.choice([position for position, cost in enumerate(costs) if cost == low])
    if math.isinf(high - low):
        return pick([cost / 2 for cost in costs], temperature, rng)
    scale = (high - low) * temperature
    return rng.choices(range(len(costs)), [math.exp((low - cost) / scale) for cost in costs])[0]
