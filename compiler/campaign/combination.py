"""One combination of an axis' rows: its variables, and the spec that it makes of the base."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynamoc.compiler.campaign.axes import Axis, Row, is_field
from dynamoc.compiler.campaign.expressions import ExpressionError, arithmetic, evaluate
from dynamoc.compiler.campaign.spec import CampaignSpec
from dynamoc.compiler.diagnostics import Path, Reporter

MAX_COMBINATIONS = 100_000


@dataclass(slots=True)
class Combination:
    """`values` are those of the axes by their names, `variables` what expressions see.

    `fields` are fields of the spec with their new values, `writers` where in the campaign each was said.
    """

    values: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    writers: dict[Path, Path] = field(default_factory=dict)


def combinations(axes: tuple[Axis, ...], report: Reporter) -> Iterator[Combination]:
    """Every combination, the last axis turning fastest; too many are an error."""
    count = math.prod(len(axis.rows) for axis in axes)
    if count > MAX_COMBINATIONS:
        sizes = [len(axis.rows) for axis in axes]
        report.error(
            "D604",
            f"the axes have more than {MAX_COMBINATIONS} combinations",
            (("axes",), ""),
            notes=[f"{' x '.join(map(str, sizes))} = {count}"],
            at_key=True,
        )
        return
    for rows in itertools.product(*(axis.rows for axis in axes)):
        yield _combined(axes, rows)


def _combined(axes: tuple[Axis, ...], rows: tuple[Row, ...]) -> Combination:
    made = Combination()
    for axis, row in zip(axes, rows, strict=True):
        for name, value in row.values.items():
            made.values[name] = value
            if is_field(name):
                _write(made, name, value, row.at[name])
            else:
                made.variables[name] = value
            if name in axis.fields:
                _write(made, axis.fields[name], value, row.at[name])
    return made


def _write(made: Combination, name: str, value: Any, at: Path) -> None:
    made.fields[name] = value
    made.writers[path_of(name)] = at


def path_of(name: str) -> Path:
    """The path of a field that is written with dots."""
    return tuple(name.split("."))


def derive(made: Combination, spec: CampaignSpec, report: Reporter) -> None:
    """Add what follows from the variables: further variables, and fields of the spec."""
    for name, text in (spec.derive or {}).items():
        made.variables[name] = compute(text, made.variables, ("derive", name), report)
    for name, text in (spec.set or {}).items():
        value = compute(text, made.variables, ("set", name), report)
        if value is not None:
            _write(made, name, value, ("set", name))


def compute(text: Any, variables: Mapping[str, Any], at: Path, report: Reporter) -> Any:
    """The value of an expression; a value that is no text is itself. D601, and None, for one that has no value."""
    if not isinstance(text, str):
        return text
    try:
        return evaluate(text, variables)
    except ExpressionError as error:
        report.error("D601", f"`{text}` cannot be computed", (at, str(error)), notes=_given(variables))
        return None


def _given(variables: Mapping[str, Any]) -> list[str]:
    return [f"with {', '.join(f'{name} = {value!r}' for name, value in variables.items())}"] if variables else []


def broken_rules(
    field: Literal["where", "expect"], made: Combination, spec: CampaignSpec, report: Reporter
) -> Iterator[tuple[str, str]]:
    """Predicates that do not hold, each with its arithmetic."""
    for number, text in enumerate(getattr(spec, field) or []):
        if not compute(text, made.variables, (field, number), report):
            yield text, "" if report.failed else f"{arithmetic(text, made.variables)} is false"


def put(data: Any, path: Path, value: Any) -> Any:
    """A copy of plain data with a value at a path; mappings on the way are made, lists are not."""
    if not path:
        return value
    word, *rest = path
    if isinstance(data, list):
        index = int(word) if str(word).isdecimal() else -1
        if not 0 <= index < len(data):
            raise LookupError(f"the list has {len(data)} entries, and none is `{word}`")
        return [put(item, tuple(rest), value) if i == index else item for i, item in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        raise LookupError(f"`{word}` is asked of a value that is no mapping")
    known = data or {}
    return {**known, word: put(known.get(word), tuple(rest), value)}
