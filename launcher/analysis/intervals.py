"""Means of repeated measurements with Student's t-intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

REPEATS = 3
"""Of fewer no interval is shown: at two it is thirteen times the deviation."""
CONFIDENCE = 0.95
BISECTIONS = 200
TERMS = 300
SMALL = 1e-300


@dataclass(frozen=True, slots=True)
class Mean:
    """Of `n` measurements; the true mean is within `half_width` with the confidence, None of fewer than three."""

    value: float
    n: int
    deviation: float
    half_width: float | None


def mean_of(values: Sequence[float], confidence: float = CONFIDENCE) -> Mean:
    """At least one value."""
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else 0.0
    half_width = t_quantile((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n) if n >= REPEATS else None
    return Mean(mean, n, deviation, half_width)


def difference(old: Mean, new: Mean, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The interval of `new - old` by Welch's test; None where either has no interval of its own."""
    if old.half_width is None or new.half_width is None:
        return None
    a, b = old.deviation**2 / old.n, new.deviation**2 / new.n
    by = new.value - old.value
    if a + b == 0:
        return by, by
    freedom = (a + b) ** 2 / (a**2 / (old.n - 1) + b**2 / (new.n - 1))
    half_width = t_quantile((1 + confidence) / 2, freedom) * math.sqrt(a + b)
    return by - half_width, by + half_width


@functools.lru_cache(maxsize=256)
def t_quantile(probability: float, freedom: float) -> float:
    """Where Student's distribution has `probability` > 1/2 below it, by bisection."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return high


def _t_below(t: float, freedom: float) -> float:
    return 1 - _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction where that is quick."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Lentz's method."""
    value = above = 1.0
    below = 0.0
    for term in range(1, TERMS):
        m = term // 2
        if term % 2:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        below = 1 / _off_zero(1 + factor * below)
        above = _off_zero(1 + factor / above)
        value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return value


def _off_zero(value: float) -> float:
    return SMALL if abs(value) < SMALL else value
