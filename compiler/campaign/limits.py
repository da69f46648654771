"""What a point should keep to: `ttft_ms@p99 <= 500`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from dynamoc.compiler.nearest import nearest

STATISTICS = ("avg", "p50", "p90", "p95", "p99")
SPREADS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
SINGLE = ("requests_per_s", "output_tokens_per_s", "input_tokens_per_s", "goodput_per_s", "failed", "error_rate")
_LIMIT = re.compile(r"\s*([a-z0-9_]+)\s*(?:@\s*([a-z0-9]+))?\s*(<=|>=)\s*([0-9]+(?:\.[0-9]+)?)\s*", re.ASCII)


class LimitError(ValueError):
    """Not a limit; `near` is what was probably meant."""

    def __init__(self, reason: str, near: str | None = None) -> None:
        super().__init__(reason)
        self.near = near


class Limit(msgspec.Struct, frozen=True):
    """A bound on one figure of a result; `statistic` is empty where the figure is one number."""

    metric: str
    statistic: str
    relation: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        at = f"@{self.statistic}" if self.statistic else ""
        return f"{self.metric}{at} {self.relation} {self.bound:g}"

    def holds(self, figure: float) -> bool:
        """Whether a figure keeps to it."""
        return figure <= self.bound if self.relation == "<=" else figure >= self.bound


def read_limit(text: str) -> Limit:
    """A limit as it is written; LimitError."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise LimitError("expected `metric@statistic <= number`, such as `ttft_ms@p99 <= 500`")
    metric, statistic, relation, bound = match.groups()
    if metric not in (*SPREADS, *SINGLE):
        near = nearest(metric, [*SPREADS, *SINGLE])
        raise LimitError(f"metrics are {_listed((*SPREADS, *SINGLE))}", near and text.replace(metric, near, 1))
    if metric in SINGLE and statistic is not None:
        raise LimitError(f"`{metric}` is one number and has no statistic", f"{metric} {relation} {bound}")
    if metric in SPREADS and statistic not in STATISTICS:
        near = nearest(statistic, list(STATISTICS)) if statistic else "p99"
        raise LimitError(f"statistics are {_listed(STATISTICS)}", near and f"{metric}@{near} {relation} {bound}")
    words: Mapping[str, Literal["<=", ">="]] = {"<=": "<=", ">=": ">="}
    return Limit(metric, statistic or "", words[relation], float(bound))


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)
