"""The loads of a campaign as ladders of settings, each ready to stand in a spec as its `load`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.campaign.combination import compute
from dynamoc.compiler.campaign.spec import CampaignLoadSpec, CampaignSpec
from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter

Step = dict[str, Any]
"""One load as a spec says it."""
EXCLUSIVE = (("search", "concurrency"), ("search", "request_rate"), ("search", "trace"), ("trace", "request_rate"))
WAYS = ("concurrency", "request_rate", "search", "trace")
PLAIN = frozenset({"trace", "tool"})
"""Words, not expressions."""
OF_LADDERS = frozenset({"concurrency", "request_rate", "search"})


def check_loads(spec: CampaignSpec, report: Reporter) -> None:
    """What a load may not say together, or not without the rest of the file."""
    for number, load in enumerate(spec.loads):
        at: Path = ("loads", number)
        if all(getattr(load, way) is None for way in WAYS):
            label = f"expected {', '.join(f'`{way}`' for way in WAYS[:-1])} or `{WAYS[-1]}`"
            report.error("D111", f"`loads[{number}]` does not say how hard to push", (at, label))
        for one, other in EXCLUSIVE:
            if getattr(load, one) is not None and getattr(load, other) is not None:
                message = f"`{one}` and `{other}` exclude each other"
                labels = [((*at, way), "") for way in (one, other)]
                report.error("D115", message, *labels, remedies=[Remedy((Drop((*at, other)),))], at_key=True)
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


def ladders_of(load: CampaignLoadSpec, at: Path, variables: Mapping[str, Any], report: Reporter) -> list[list[Step]]:
    """Ladders of a load, lightest first; a search is a ladder of its heaviest."""

    def value(name: str) -> Any:
        found = getattr(load, name)
        computed = found if name in PLAIN else compute(found, variables, (*at, name), report)
        return found if isinstance(found, str) and computed is None else computed

    written = [name for name in type(load).model_fields if getattr(load, name) is not None]
    common = {name: value(name) for name in written if name not in OF_LADDERS}
    rates = _listed(value("request_rate"))
    numbers = [load.search.max] if load.search is not None else _listed(value("concurrency"))
    if numbers != [None]:
        return [list(_steps(common, rate, numbers)) for rate in rates]
    return [[step for rate in rates for step in _steps(common, rate, [None])]]


def _steps(common: Mapping[str, Any], rate: Any, numbers: list[Any]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        given = {"concurrency": number, "request_rate": rate}
        yield {**common, **{name: value for name, value in given.items() if value is not None}}


def _listed(value: Any) -> list[Any]:
    """In ascending order, each once."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    plain = all(isinstance(one, int | float) for one in values)
    return sorted(set(values)) if plain else values
