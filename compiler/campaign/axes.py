"""Axes as rows: each row gives values to some names. A campaign is every combination of one row of each axis."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dynamoc.compiler.campaign.draws import latin_rows, random_rows
from dynamoc.compiler.campaign.expressions import FUNCTIONS
from dynamoc.compiler.campaign.spec import AxisSpec, CampaignSpec, DrawSpec
from dynamoc.compiler.diagnostics import Drop, Path, Remedy, Reporter

KINDS = ("values", "zip", "list", "variants", "random", "latin")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """What one step along an axis gives: values by name, and where in the campaign each is written."""

    values: Mapping[str, Any]
    at: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Axis:
    """Its rows in order. `fields` are names that are fields of the spec, and the variable each is also known by."""

    name: str
    rows: tuple[Row, ...]
    fields: Mapping[str, str]


def is_field(name: str) -> bool:
    """Whether a name of an axis is a field of the spec."""
    return "." in name


def read_axes(spec: CampaignSpec, report: Reporter) -> tuple[Axis, ...]:
    """Every axis in the order of the text; what is wrong with one is reported."""
    axes = tuple(_axis(name, axis, report) for name, axis in (spec.axes or {}).items())
    _check_names(axes, spec, report)
    return axes


def _axis(name: str, axis: AxisSpec | list[Any], report: Reporter) -> Axis:
    at: Path = ("axes", name)
    if isinstance(axis, list):
        return Axis(name, tuple(Row({name: v}, {name: (*at, i)}) for i, v in enumerate(axis)), {})
    kinds = [kind for kind in KINDS if getattr(axis, kind) is not None]
    if len(kinds) != 1:
        _report_kinds(at, kinds, report)
        return Axis(name, (), {})
    if axis.path is not None and kinds != ["values"]:
        report.error(
            "D115",
            f"`path` and `{kinds[0]}` exclude each other",
            ((*at, "path"), "only `values` have one field"),
            remedies=[Remedy((Drop((*at, "path")),))],
        )
    fields = {name: axis.path} if axis.path is not None else {}
    return Axis(name, tuple(_rows(name, axis, (*at, kinds[0]), report)), fields)


def _report_kinds(at: Path, kinds: list[str], report: Reporter) -> None:
    known = ", ".join(f"`{kind}`" for kind in KINDS)
    if not kinds:
        report.error("D111", f"the axis `{at[1]}` says nothing of its values", (at, f"expected one of {known}"))
        return
    message = f"`{kinds[0]}` and `{kinds[1]}` exclude each other"
    labels = [((*at, kind), "") for kind in kinds]
    report.error("D115", message, *labels, remedies=[Remedy((Drop((*at, kind)),)) for kind in kinds[1:2]])


def _rows(name: str, axis: AxisSpec, at: Path, report: Reporter) -> Iterator[Row]:
    if axis.values is not None:
        yield from (Row({name: value}, {name: (*at, i)}) for i, value in enumerate(axis.values))
    elif axis.zip is not None:
        yield from _zipped(axis.zip, at, report)
    elif axis.list is not None:
        yield from (Row(row, {key: (*at, i, key) for key in row}) for i, row in enumerate(axis.list))
    elif axis.variants is not None:
        for variant, row in axis.variants.items():
            where = {key: (*at, variant, key) for key in row}
            yield Row({name: variant, **row}, {name: (*at, variant), **where})
    elif (draw := axis.random or axis.latin) is not None and _can_draw(draw, at, report):
        for row in random_rows(draw) if axis.random else latin_rows(draw):
            yield Row(row, {key: (*at, "of", key) for key in row})


def _zipped(columns: Mapping[str, list[Any]], at: Path, report: Reporter) -> Iterator[Row]:
    lengths = {key: len(column) for key, column in columns.items()}
    shortest = min(lengths, key=lambda key: lengths[key])
    longest = max(lengths, key=lambda key: lengths[key])
    if lengths[shortest] != lengths[longest]:
        report.error(
            "D603",
            "lists that are walked together have different lengths",
            ((*at, shortest), f"{lengths[shortest]} values"),
            ((*at, longest), f"{lengths[longest]} values"),
            notes=[", ".join(f"{key}: {length}" for key, length in lengths.items())],
        )
    for i in range(lengths[shortest]):
        yield Row({key: column[i] for key, column in columns.items()}, {key: (*at, key, i) for key in columns})


def _can_draw(draw: DrawSpec, at: Path, report: Reporter) -> bool:
    for name, span in draw.of.items():
        where = (*at, "of", name)
        bounds = span.min is not None and span.max is not None
        if (span.any_of is not None) == (span.min is not None or span.max is not None) or (
            span.any_of is None and not bounds
        ):
            report.error("D115", f"`{name}` takes either `any_of` or both `min` and `max`", (where, ""), at_key=True)
        elif span.min is not None and span.max is not None:
            low = f"{span.min} to {span.max}"
            if span.min > span.max:
                report.error("D113", f"`{name}` has no number to draw", ((*where, "min"), low))
            elif span.log and span.min <= 0:
                report.error("D113", f"`{name}` has no logarithm", ((*where, "min"), "expected more than 0"))
    return not report.failed


def _check_names(axes: tuple[Axis, ...], spec: CampaignSpec, report: Reporter) -> None:
    """Every variable can be named in an expression, and every name is given once."""
    given: dict[str, Path] = {}
    for axis in axes:
        own: dict[str, Path] = {key: path for row in axis.rows for key, path in row.at.items()}
        own |= dict.fromkeys(axis.fields.values(), ("axes", axis.name, "path"))
        for name, path in own.items():
            _check_name(name, path, given, report)
        given |= own
    for name in spec.derive or {}:
        _check_name(name, ("derive", name), given, report)
        given[name] = ("derive", name)
    for name in spec.set or {}:
        if name in given and is_field(name):
            _check_name(name, ("set", name), given, report)


def _check_name(name: str, path: Path, given: Mapping[str, Path], report: Reporter) -> None:
    if name in given:
        report.error("D602", f"`{name}` gets two values", (path, "again here"), (given[name], "first here"))
    elif not is_field(name) and path[-1] != "path" and _VARIABLE.fullmatch(name) is None:
        report.error(
            "D113",
            f"`{name}` cannot be a variable",
            (path, "variables are letters, digits and underscores; fields of the spec have a dot"),
        )
    elif keyword.iskeyword(name) or name in FUNCTIONS:
        report.error("D113", f"`{name}` cannot be a variable", (path, "expressions have a word of this name"))
