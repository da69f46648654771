"""Student's intervals against the printed tables and against integration of the density."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from dynamoc.launcher.analysis.intervals import difference, mean_of, t_quantile

PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 29: 2.045, 120: 1.980}


@pytest.mark.parametrize(("freedom", "quantile"), PRINTED.items())
def test_quantiles_are_the_printed_ones(freedom: int, quantile: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("freedom", [1.0, 2.7, 5.0, 33.3])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.995])
def test_the_density_up_to_a_quantile_integrates_to_its_probability(freedom: float, probability: float) -> None:
    end, steps = t_quantile(probability, freedom), 20_000
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    middles = ((step + 0.5) * end / steps for step in range(steps))
    area = math.fsum((1 + t * t / freedom) ** (-(freedom + 1) / 2) for t in middles) * end / steps

    assert 0.5 + scale * area == pytest.approx(probability, abs=1e-6)


def test_an_interval_takes_three() -> None:
    assert mean_of([5.0]).half_width is None
    assert mean_of([5.0, 6.0]).half_width is None
    assert mean_of([4.0, 5.0, 6.0]).half_width == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    draw = random.Random(5)
    held = 0
    for _ in range(2_000):
        mean = mean_of([draw.gauss(10, 3) for _ in range(5)])
        assert mean.half_width is not None
        held += abs(mean.value - 10) <= mean.half_width

    assert 0.935 < held / 2_000 < 0.965


def test_a_difference_is_that_of_welch() -> None:
    """Against the formula with the sample variances of the standard library."""
    old, new = [10.0, 11.0, 12.0, 13.0], [20.0, 24.0, 22.0]
    a, b = statistics.variance(old) / 4, statistics.variance(new) / 3
    freedom = (a + b) ** 2 / (a**2 / 3 + b**2 / 2)
    interval = difference(mean_of(old), mean_of(new))

    assert interval is not None
    assert sum(interval) / 2 == pytest.approx(22 - 11.5)
    assert interval[1] - interval[0] == pytest.approx(2 * t_quantile(0.975, freedom) * math.sqrt(a + b))


def test_equal_repeats_differ_by_exactly_their_difference() -> None:
    assert difference(mean_of([1.0] * 3), mean_of([2.0] * 3)) == (1.0, 1.0)
    assert difference(mean_of([1.0] * 2), mean_of([2.0] * 3)) is None
