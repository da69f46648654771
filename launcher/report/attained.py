"""Which share of a point's requests kept each target, and how many a second kept all: from the requests on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec

from dynamoc.compiler.campaign.limits import SPREADS, Limit
from dynamoc.launcher.analysis.attainment import attainment, goodput_per_s
from dynamoc.launcher.analysis.sla import requests_of
from dynamoc.launcher.report.points import Measured, ReportError
from dynamoc.launcher.results.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Attained:
    """Means over the repeats; `shares` by limit."""

    shares: Mapping[str, float]
    good_per_s: float


def attained(point: Measured, limits: Sequence[Limit]) -> Attained | None:
    """None without a limit of a time, or without the records of every repeat; ReportError."""
    times = [limit for limit in limits if limit.metric in SPREADS and limit.relation == "<="]
    if not times or len(point.records) != len(point.rows):
        return None
    repeats = [(row, _read(path)) for row, path in zip(point.rows, point.records, strict=True)]
    return Attained(
        shares={
            str(limit): fmean(attainment(found, requests_of(row), limit.metric, limit.bound) for row, found in repeats)
            for limit in times
        },
        good_per_s=fmean(goodput_per_s(found, times, row.duration_s) for row, found in repeats),
    )


def _read(path: Path) -> list[RequestRecord]:
    try:
        return [msgspec.json.decode(line, type=RequestRecord) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise ReportError(f"{path}: {error}") from error
