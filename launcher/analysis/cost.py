"""What rates cost in GPU-hours: measured, composed of pools measured apart, and a whole campaign."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

SECONDS_AN_HOUR = 3600.0
REQUESTS = 1e3
"""Requests that a cost is given for."""
TOKENS = 1e6
"""Output tokens that a cost is given for."""


def gpu_hours_per_1k_requests(gpus: int, requests_per_s: float) -> float:
    """Measured; infinite where nothing was completed."""
    return _gpu_hours(gpus, requests_per_s, REQUESTS)


def gpu_hours_per_1m_tokens(gpus: int, output_tokens_per_s: float) -> float:
    """Measured; infinite where nothing came out."""
    return _gpu_hours(gpus, output_tokens_per_s, TOKENS)


def composed_gpu_hours_per_1k_requests(
    isl: float, osl: float, prefill_tokens_per_s_gpu: float, decode_tokens_per_s_gpu: float
) -> float:
    """Of pools measured apart: fractions of workers, all busy all the time, so no deployment costs less."""
    if prefill_tokens_per_s_gpu <= 0 or decode_tokens_per_s_gpu <= 0:
        return math.inf
    gpu_seconds = isl / prefill_tokens_per_s_gpu + osl / decode_tokens_per_s_gpu
    return gpu_seconds * REQUESTS / SECONDS_AN_HOUR


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs set aside for a while, in Unix s, and for how much of it a load was measured."""

    gpus: int
    started: float
    ended: float
    measured_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CampaignCost:
    """GPU-hours allocated, start-up and failures included, and those of them in which a load was measured."""

    gpu_hours: float
    measured_gpu_hours: float

    @property
    def measured_share(self) -> float:
        """1 where no start-up and no failure cost anything; 0 of nothing."""
        return self.measured_gpu_hours / self.gpu_hours if self.gpu_hours else 0.0


def campaign_cost(holdings: Iterable[Holding]) -> CampaignCost:
    """The sum over all that was ever allocated."""
    kept = tuple(holdings)
    total = math.fsum(held.gpus * (held.ended - held.started) for held in kept)
    measured = math.fsum(held.gpus * held.measured_s for held in kept)
    return CampaignCost(total / SECONDS_AN_HOUR, measured / SECONDS_AN_HOUR)


def _gpu_hours(gpus: int, per_s: float, count: float) -> float:
    return gpus * count / per_s / SECONDS_AN_HOUR if per_s > 0 else math.inf
