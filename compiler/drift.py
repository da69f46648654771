"""What two locks do not share: as drift of one from the other, class by class, and as a difference in meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dynamoc.compiler.diagnostics import Path
from dynamoc.compiler.lock import Lock
from dynamoc.runtime.manifest import Role


class Absent:
    """Stands for a value that is not there, which null is not."""

    def __repr__(self) -> str:
        return "–"


ABSENT = Absent()


class DriftClass(StrEnum):
    """What has drifted. `defaults` are values nobody wrote; the first five are inputs, the others follow from them."""

    SPEC = "spec"
    DEFAULTS = "defaults"
    INVENTORY = "inventory"
    MODEL = "model"
    IMAGE = "image"
    PLAN = "plan"
    ARTIFACT = "artifact"


@dataclass(frozen=True, slots=True)
class Change:
    """A value that is not the same on both sides; ABSENT where a side has none."""

    path: Path
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Drift:
    """One drifted field of a lock."""

    kind: DriftClass
    change: Change


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference in meaning. `about` is a component, or what is not of one: pipeline, inventory, model."""

    about: str
    change: Change


def drift_of(locked: Lock, now: Lock) -> tuple[Drift, ...]:
    """Every field of `locked` that is otherwise `now`, by class."""
    found = [Drift(DriftClass.SPEC, change) for change in changes(locked.spec, now.spec)]
    found += [
        Drift(DriftClass.DEFAULTS, change)
        for change in changes(locked.resolved, now.resolved)
        if not is_written(change.path, locked.spec) and not is_written(change.path, now.spec)
    ]
    for kind, before, after in (
        (DriftClass.INVENTORY, locked.inventory, now.inventory),
        (DriftClass.MODEL, locked.model, now.model),
        (DriftClass.IMAGE, locked.images, now.images),
        (DriftClass.PLAN, locked.plan, now.plan),
        (DriftClass.ARTIFACT, {"target": locked.target}, {"target": now.target}),
        (DriftClass.ARTIFACT, locked.artifacts, now.artifacts),
    ):
        found += [Drift(kind, change) for change in changes(before, after)]
    return tuple(found)


def difference(one: Lock, other: Lock) -> tuple[Difference, ...]:
    """What they mean, not how they are written: fields, placement, memory, ports and words of every component."""
    here, there = _meaning(one), _meaning(other)
    names = dict.fromkeys([*here, *there])
    return tuple(
        Difference(about, change)
        for about in names
        for change in changes(here.get(about, ABSENT), there.get(about, ABSENT))
    )


def changes(before: Any, after: Any, path: Path = ()) -> Iterator[Change]:
    """Leaves that differ, in the order of `before`; what one side lacks is one change."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            yield from changes(before.get(key, ABSENT), after.get(key, ABSENT), (*path, key))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from changes(_item(before, index), _item(after, index), (*path, index))
    elif type(before) is not type(after) or before != after:
        yield Change(path, before, after)


def is_written(path: Path, spec: Mapping[str, Any]) -> bool:
    """Whether the user wrote what is at `path`, there or for all workers."""
    if _has(spec, path):
        return True
    if path[:1] != ("components",) or len(path) < 3:
        return False
    component = spec.get("components", {}).get(path[1])
    role = component.get("role") if isinstance(component, Mapping) else None
    return role not in (Role.FRONTEND, Role.ROUTER) and _has(spec, ("defaults", *path[2:]))


def _has(data: Any, path: Path) -> bool:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return False
    return data is not None


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else ABSENT


def _meaning(lock: Lock) -> dict[str, dict[str, Any]]:
    """Components by name; the rest under words that are no names of components."""
    processes: dict[str, dict[str, Any]] = {name: {} for name in lock.resolved["components"]}
    for name, process in lock.plan["processes"].items():
        facts = {key: value for key, value in process.items() if key != "component"}
        processes.setdefault(process["component"], {})[name] = facts
    return {
        "(pipeline)": {key: value for key, value in lock.resolved.items() if key != "components"}
        | {"edges": lock.plan["edges"], "waived": lock.plan["waived"], "unchecked": lock.plan["unchecked"]},
        "(model)": dict(lock.model),
        "(inventory)": dict(lock.inventory),
    } | {name: {**lock.resolved["components"][name], **placed} for name, placed in processes.items()}
