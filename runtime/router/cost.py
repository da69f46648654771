"""What it would cost a worker to take a request, in blocks, and the choice among costs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from dynamoc.runtime.router.index import Matched

HOST_CREDIT = 0.75
DISK_CREDIT = 0.25
REMOTE_CREDIT = 0.1
"""What a block in a slower tier is worth, where one in device memory is worth `overlap_credit`."""

NOTHING: Matched = (0, 0, 0, 0)


def credit(matched: Matched, overlap_credit: float) -> float:
    """Blocks that need not be computed, each discounted by the time its tier needs to bring it back."""
    device, host, disk, remote = matched
    return overlap_credit * device + HOST_CREDIT * host + DISK_CREDIT * disk + REMOTE_CREDIT * remote


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


def uncached_tokens(prompt_tokens: int, block_size: int, matched: Matched) -> int:
    """Prompt tokens whose KV is not in device memory."""
    return max(0, prompt_tokens - matched[0] * block_size)


def bypasses_prefill(prompt_tokens: int, block_size: int, matched: Matched, bypass_below_tokens: int) -> bool:
    """Whether so little of the prompt is left that the decode worker computes it at once."""
    return uncached_tokens(prompt_tokens, block_size, matched) < bypass_below_tokens


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
