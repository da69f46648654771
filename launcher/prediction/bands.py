"""How far aiconfigurator was off, by system and engine: its estimates held against public measurements."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

RELEASE = "0.12.0"
"""Of aiconfigurator, that the bands are of."""


class Band(msgspec.Struct, frozen=True):
    """Absolute errors in percent over `points` measured points of workers that prefill and decode."""

    points: int
    ttft_median: int
    ttft_mean: int
    tpot_median: int
    tpot_mean: int
    tpot_p90: int


BANDS: Mapping[tuple[str, str], Band] = {
    ("h200_sxm", "vllm"): Band(83, 35, 38, 24, 48, 131),
    ("h200_sxm", "sglang"): Band(79, 61, 61, 29, 37, 89),
    ("h200_sxm", "trtllm"): Band(84, 41, 56, 34, 38, 75),
    ("h100_sxm", "vllm"): Band(54, 45, 46, 9, 14, 22),
    ("h100_sxm", "trtllm"): Band(248, 43, 47, 9, 10, 20),
    ("h100_sxm", "sglang"): Band(34, 89, 86, 34, 33, 64),
    ("b200_sxm", "vllm"): Band(118, 29, 38, 15, 25, 34),
    ("b200_sxm", "trtllm"): Band(71, 44, 48, 37, 45, 68),
    ("b200_sxm", "sglang"): Band(111, 75, 69, 21, 22, 42),
}


def spell(system: str, engine: str, disaggregated: bool) -> tuple[str, ...]:
    """What to think of an estimate, in lines."""
    band = BANDS.get((system, engine))
    if band is None:
        return (f"error: not known of {engine} on {system}; elsewhere TPOT was off by 9-37 % in the median",)
    measured = f"of {band.points} measured points of {engine} on {system}"
    lines = (
        f"TPOT error: {band.tpot_median} % in the median, {band.tpot_p90} % at the 90th percentile {measured}",
        f"TTFT error: {band.ttft_median} % in the median, mostly too low under load: a floor, no more",
    )
    one_pool = ("both were measured on workers that prefill and decode; no band is known where pools are apart",)
    return lines + (one_pool if disaggregated else ())
