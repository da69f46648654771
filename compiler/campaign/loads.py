"""The loads of a campaign as ladders of settings, each ready to stand in a spec as its `load`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.campaign.combination import compute
from dynamoc.compiler.campaign.spec import CampaignLoadSpec, CampaignSpec
from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.load_plan import LoadPoint, Trace

OF_SPECS = ("requests", "warmup_requests", "shared_prefix", "seed", "tool")
FURTHEST = 2.0
"""Lengths that vary are never further from their mean than so many deviations."""


class Setting(msgspec.Struct, frozen=True):
    """One load: what a spec says of it, and what it has beyond that."""

    load: dict[str, Any]
    beyond: dict[str, Any]
    digest: str = ""
    """Of the trace that it replays."""

    def of(self, point: LoadPoint) -> LoadPoint:
        """The point of the spec's load, with what is beyond."""
        return msgspec.structs.replace(point, **self.beyond)


def check_loads(spec: CampaignSpec, report: Reporter) -> None:
    """What a load may not say together, or not without the rest of the file."""
    for number, load in enumerate(spec.loads):
        at: Path = ("loads", number)
        ways = [way for way in ("search", "concurrency", "trace") if getattr(load, way) is not None]
        if load.request_rate is not None and "concurrency" not in ways:
            ways.append("request_rate")
        if not ways:
            label = "expected `concurrency`, `request_rate`, `search` or `trace`"
            report.error("D111", f"`loads[{number}]` does not say how hard to push", (at, label))
        elif len(ways) > 1:
            message = f"`{ways[0]}` and `{ways[1]}` exclude each other"
            labels = [((*at, way), "") for way in ways[:2]]
            report.error("D115", message, *labels, remedies=[Remedy((Drop((*at, ways[1])),))], at_key=True)
        _check_search(load, at, spec, report)
        if load.trace_speed is not None and load.trace is None:
            remedies = [Remedy((Drop((*at, "trace_speed")),))]
            report.error(
                "D116", "`trace_speed` has no effect without a `trace`", ((*at, "trace_speed"), ""), remedies=remedies
            )
    if spec.stop is not None and not spec.sla:
        remedies = [Remedy((Drop(("stop",)),))]
        report.error(
            "D116", "`stop` has no effect without an `sla`", (("stop",), "nothing can be breached"), remedies=remedies
        )


def _check_search(load: CampaignLoadSpec, at: Path, spec: CampaignSpec, report: Reporter) -> None:
    if load.search is None:
        return
    if not spec.sla:
        label = ((*at, "search"), "it would never end before `max`")
        report.error(
            "D605", "a search needs an `sla`", label, remedies=[Remedy((Put(("sla",), ["ttft_ms@p99 <= 500"]),))]
        )
    low = load.search.min or 1
    if low > load.search.max:
        remedies = [Remedy((Put((*at, "search", "min"), load.search.max),))]
        report.error(
            "D113", f"`search` has nothing from {low} to {load.search.max}", ((*at, "search"), ""), remedies=remedies
        )


def settings(
    load: CampaignLoadSpec, at: Path, variables: Mapping[str, Any], traces: Mapping[str, str], report: Reporter
) -> list[list[Setting]]:
    """Ladders of a load, lightest first; a search is a ladder of its heaviest. `traces` are digests of their files."""

    def value(name: str) -> Any:
        found = getattr(load, name)
        computed = compute(found, variables, (*at, name), report)
        return found if isinstance(found, str) and computed is None else computed

    common = {name: value(name) for name in OF_SPECS if getattr(load, name) is not None}
    beyond = _beyond(load)
    digest = traces.get(load.trace, "") if load.trace is not None else ""
    common["isl"] = _longest(value("isl"), load.isl_stddev)
    common["osl"] = _longest(value("osl"), load.osl_stddev)
    means = {"isl": value("isl"), "osl": value("osl")}
    rates = ["inf"] if load.trace is not None else _listed(value("request_rate"))
    numbers = [load.search.max] if load.search is not None else _listed(value("concurrency"))
    ladders = (
        [list(_steps(common, rate, numbers)) for rate in rates]
        if numbers != [None]
        else [[step for rate in rates for step in _steps(common, rate, [None])]]
    )
    return [[Setting(step, {**means, **beyond}, digest) for step in ladder] for ladder in ladders]


def _steps(common: Mapping[str, Any], rate: Any, numbers: list[Any]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        given = {"concurrency": number, "request_rate": rate}
        yield {**common, **{name: value for name, value in given.items() if value is not None}}


def _listed(value: Any) -> list[Any]:
    """In ascending order, each once."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    plain = all(isinstance(one, int | float) for one in values)
    return sorted(set(values)) if plain else values


def _longest(mean: Any, deviation: float | None) -> Any:
    """What the longest request of a distribution has: that is what must fit."""
    return int(mean + FURTHEST * deviation) if deviation and isinstance(mean, int) else mean


def _beyond(load: CampaignLoadSpec) -> dict[str, Any]:
    given = {"prefixes": load.prefixes, "isl_stddev": load.isl_stddev, "osl_stddev": load.osl_stddev}
    beyond: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if load.trace is not None:
        beyond["trace"] = Trace(path=load.trace, speedup=load.trace_speed or 1.0)
        beyond["requests"] = load.requests
    return beyond
