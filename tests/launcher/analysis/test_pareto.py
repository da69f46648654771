"""The frontier is what comparing every pair says, on ten thousand tables with ties and values that are no number."""

from __future__ import annotations

import math
import random
import time

import pytest
from seeded import seeded

from dynamoc.launcher.analysis.pareto import frontier

NUMBERS = [*map(float, range(5)), 0.5, -0.0, *map(float, range(5)), math.inf, -math.inf, math.nan]


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


@pytest.mark.parametrize("values", [2, 3])
def test_the_frontier_is_that_of_all_pairs(values: int) -> None:
    @seeded(5_000)
    def check(seed: int) -> None:
        draw = random.Random(seed)
        points = [tuple(draw.choices(NUMBERS, k=values)) for _ in range(draw.randrange(13))]
        finite = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
        expected = [i for i in finite if not any(dominates(points[j], points[i]) for j in finite)]
        front = frontier(points)

        assert list(front.members) == expected
        assert set(front.dominators) == set(finite) - set(expected)
        for below, above in front.dominators.items():
            assert above in expected
            assert dominates(points[above], points[below])

    check()


def test_ties_stand_together_in_the_order_given() -> None:
    assert frontier([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (0.0, 2.0)]).members == (0, 1, 2)


def test_nothing_has_no_frontier() -> None:
    assert frontier([]).members == ()
    assert frontier([(math.nan, 1.0)]).members == ()


@pytest.mark.parametrize("values", [2, 3])
def test_a_hundred_thousand_points_are_not_compared_in_pairs(values: int) -> None:
    draw = random.Random(7)
    points = [tuple(draw.random() for _ in range(values)) for _ in range(100_000)]
    begin = time.process_time()
    frontier(points)

    assert time.process_time() - begin < 30, "every pair would take an hour"
