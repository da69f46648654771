"""Costs: the worked examples, and second-by-second bookkeeping on ten thousand tables."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from seeded import seeded

from dynamoc.launcher.analysis.cost import (
    Holding,
    campaign_cost,
    composed_gpu_hours_per_1k_requests,
    gpu_hours_per_1k_requests,
    gpu_hours_per_1m_tokens,
)


def test_a_prefill_worker_of_4_gpus_and_226_ms_costs_a_quarter_gpu_hour() -> None:
    """The number of GPUs counts once: throughput per GPU already divides by it."""
    per_gpu = 4000 / 0.226 / 4

    assert composed_gpu_hours_per_1k_requests(4000, 0, per_gpu, 1.0) == pytest.approx(0.2511, abs=5e-5)
    assert gpu_hours_per_1k_requests(4, 1 / 0.226) == pytest.approx(0.2511, abs=5e-5)


def test_integer_workers_cost_more_than_fractions_of_busy_ones() -> None:
    """4 prefill workers of one GPU and 7 decode workers of four: 32 GPUs at 9.705 requests/s."""
    composed = composed_gpu_hours_per_1k_requests(4000, 500, 3.535 * 4000, 1.507 * 500 / 4)

    assert gpu_hours_per_1k_requests(32, 9.705) == pytest.approx(0.916, abs=5e-4)
    assert composed == pytest.approx(0.816, abs=5e-4)


def test_what_serves_nothing_costs_everything() -> None:
    assert math.isinf(gpu_hours_per_1k_requests(8, 0))
    assert math.isinf(gpu_hours_per_1m_tokens(8, 0))
    assert math.isinf(composed_gpu_hours_per_1k_requests(1, 1, 0, 5))


@seeded(10_000)
def test_costs_equal_exact_arithmetic(seed: int) -> None:
    draw = random.Random(seed)
    gpus, requests, tokens, seconds = (draw.randint(1, 500) for _ in range(4))
    held = Fraction(gpus * seconds, 3600)

    assert gpu_hours_per_1k_requests(gpus, requests / seconds) == pytest.approx(float(held * 1000 / requests))
    assert gpu_hours_per_1m_tokens(gpus, tokens / seconds) == pytest.approx(float(held * 10**6 / tokens))

    holdings = [
        Holding(draw.randint(0, 8), start := float(draw.randint(0, 99)), start + length, draw.randint(0, length))
        for length in draw.choices(range(50), k=draw.randrange(6))
    ]
    ticks = sum(h.gpus for h in holdings for second in range(150) if h.started <= second < h.ended)
    cost = campaign_cost(holdings)
    assert cost.gpu_hours == pytest.approx(ticks / 3600)
    assert 0 <= cost.measured_share <= 1
