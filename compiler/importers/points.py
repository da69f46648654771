"""A recipe with a grid -> one recipe a point: `base` with `override_*` and `zip_override_*`, and `sweep`.

- An override is merged into the base: mappings key by key, everything else replaced, null removes the key.
- In a zip every list is an axis, all of one length; a list of one value, and a scalar, hold for all points.
- A sweep is the product of its lists (or their zip); `{name}` stands for the value wherever it is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.importers.recipe import RecipeError, text_of

MAX_POINTS = 100_000
OVERRIDE, ZIP = "override_", "zip_override_"


def points(recipe: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and recipe of every point; the name is empty where there is no grid."""
    for name, variant in _variants(recipe):
        for values, point in _swept(variant):
            yield ", ".join(part for part in (name, values) if part), point


def _variants(recipe: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    base = recipe.get("base")
    if not isinstance(base, dict):
        yield "", dict(recipe)
        return
    overrides = {key: value for key, value in recipe.items() if key.startswith((OVERRIDE, ZIP))}
    shared = {key: value for key, value in recipe.items() if key != "base" and key not in overrides}
    base = {**shared, **base}
    if not overrides:
        yield "base", base
    for key, change in overrides.items():
        if not isinstance(change, dict):
            raise RecipeError(f"`{key}` takes a mapping")
        suffix = key.removeprefix(ZIP).removeprefix(OVERRIDE)
        if key.startswith(ZIP):
            count = _length(key, change)
            for index in range(count):
                yield f"{key}[{index}]", _renamed(_merged(base, _slice(change, index)), base, f"{suffix}_{index}")
        else:
            yield key, _renamed(_merged(base, change), base, suffix)


def _renamed(point: dict[str, Any], base: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """A point that has only the name of the base gets one of its own."""
    named = point.get("name") != base.get("name")
    return point if named else {**point, "name": f"{text_of(base.get('name', ''))}_{suffix}"}


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    merged = dict(base)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(base.get(key), value)
    return merged


def _length(key: str, change: Any) -> int:
    lengths = {len(axis) for axis in _axes(change) if len(axis) != 1}
    if len(lengths) > 1 or 0 in lengths:
        raise RecipeError(f"the lists of `{key}` have different lengths: {', '.join(map(str, sorted(lengths)))}")
    return lengths.pop() if lengths else 1


def _axes(change: Any) -> Iterator[list[Any]]:
    if isinstance(change, list):
        yield change
    for value in change.values() if isinstance(change, dict) else ():
        yield from _axes(value)


def _slice(change: Any, index: int) -> Any:
    if isinstance(change, list):
        return change[index if len(change) > 1 else 0]
    return {key: _slice(value, index) for key, value in change.items()} if isinstance(change, dict) else change


def _swept(recipe: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if "sweep" not in recipe:
        yield "", recipe
        return
    template = {key: value for key, value in recipe.items() if key != "sweep"}
    axes, zipped = _sweep_axes(recipe["sweep"])
    count = len(next(iter(axes.values()), [])) if zipped else _product(axes)
    if count > MAX_POINTS:
        raise RecipeError(f"`sweep` has {count} points, more than {MAX_POINTS}")
    lists = list(axes.values())
    for values in zip(*lists, strict=True) if zipped else itertools.product(*lists):
        chosen = dict(zip(axes, values, strict=True))
        point = _filled(template, chosen)
        label = "_".join(f"{name}{text_of(value)}" for name, value in chosen.items())
        named = {**point, "name": f"{text_of(point.get('name', ''))}_{label}"}
        yield ", ".join(f"{name}={text_of(value)}" for name, value in chosen.items()), named


def _sweep_axes(sweep: Any) -> tuple[dict[str, list[Any]], bool]:
    """The axes, and whether they are walked together."""
    if not isinstance(sweep, dict):
        raise RecipeError("`sweep` takes a mapping")
    structured = isinstance(sweep.get("parameters"), dict)
    axes = sweep["parameters"] if structured else sweep
    for name, values in axes.items():
        if not isinstance(values, list):
            raise RecipeError(f"`sweep.{name}` takes a list")
    zipped = structured and sweep.get("mode", "zip") == "zip"
    if zipped and len({len(values) for values in axes.values()}) > 1:
        raise RecipeError("the lists of `sweep.parameters` have different lengths")
    return axes, zipped


def _product(axes: Mapping[str, list[Any]]) -> int:
    count = 1
    for values in axes.values():
        count *= len(values)
    return count


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with every `{name}` replaced; what has none is shared, not copied."""
    if isinstance(template, dict):
        filled = {key: _filled(value, values) for key, value in template.items()}
        return filled if any(filled[key] is not template[key] for key in template) else template
    if isinstance(template, list):
        items = [_filled(item, values) for item in template]
        return items if any(new is not old for new, old in zip(items, template, strict=True)) else template
    if not isinstance(template, str) or "{" not in template:
        return template
    if template[1:-1] in values and template == f"{{{template[1:-1]}}}":
        return values[template[1:-1]]
    for name, value in values.items():
        text = ",".join(map(text_of, value)) if isinstance(value, list) else text_of(value)
        template = template.replace(f"{{{name}}}", text)
    return template
