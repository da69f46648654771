"""What two locks do not share: as drift of one from the other, class by class, and as a difference in meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

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


class Change(msgspec.Struct, frozen=True):
    """A value that is not the same on both sides; ABSENT where a side has none."""

    path: Path
    before: Any
    after: Any


class Drift(msgspec.Struct, frozen=True):
    """One drifted field of a lock."""

    kind: DriftClass
    change: Change


class Difference(msgspec.Struct, frozen=True):
    """One difference in meaning. `about` is a component, or what is not of one: pipeline, inventory, model."""

    about: str
    change: Change


def drift_of(locked: Lock, now: Lock) -> tuple[Drift, ...]:
    """Every field of `locked` that is otherwise `now`, by class."""
    found = [Drift(DriftClass.SPEC, change) for change in changes(locked.spec, now.spec)]
    found += [
        Drift(DriftClass.DEFAULTS, change)
        for change in changes(_resolved(locked), _resolved(now))
        if not is_written(change.path, locked.spec) and not is_written(change.path, now.spec)
    ]
    found += [Drift(DriftClass.INVENTORY, change) for change in _inventory_changes(locked, now)]
    for kind, before, after in (
        (DriftClass.MODEL, locked.model, now.model),
        (DriftClass.IMAGE, locked.images, now.images),
        (DriftClass.PLAN, msgspec.to_builtins(locked.plan), msgspec.to_builtins(now.plan)),
        (DriftClass.ARTIFACT, {"target": locked.target}, {"target": now.target}),
        (DriftClass.ARTIFACT, locked.artifacts, now.artifacts),
    ):
        found += [Drift(kind, change) for change in changes(before, after)]
    return tuple(found)


def difference(one: Lock, other: Lock) -> tuple[Difference, ...]:
    """What they mean, not how they are written: fields, placement, memory, ports and words of every component."""
    here, there = _meaning(one), _meaning(other)
    found = [
        Difference(about, change)
        for about in dict.fromkeys([*here, *there])
        for change in changes(here.get(about, ABSENT), there.get(about, ABSENT))
    ]
    return (*found, *(Difference("(inventory)", change) for change in _inventory_changes(one, other)))


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
    if _at(spec, path) is not None:
        return True
    if path[:1] != ("components",) or len(path) < 3:
        return False
    served = any(_at(spec, (*path[:2], "role")) == role for role in (Role.FRONTEND, Role.ROUTER, Role.CACHE))
    return not served and _at(spec, ("defaults", *path[2:])) is not None


def _at(data: Any, path: Path) -> Any:
    """What is at a path; None where there is nothing."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _resolved(lock: Lock) -> dict[str, Any]:
    return {**lock.settings, "components": lock.components}


def _inventory_changes(one: Lock, other: Lock) -> Iterator[Change]:
    """Nodes of one side only are the choice of its plan; the digest is of all that there are."""
    for change in changes(one.inventory, other.inventory):
        if change.path[0] != "nodes" or len(change.path) > 2:
            yield change


def _item(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else ABSENT


def _meaning(lock: Lock) -> dict[str, dict[str, Any]]:
    """Components by name; the rest under words that are no names of components."""
    meaning: dict[str, dict[str, Any]] = {
        "(pipeline)": lock.settings
        | {"edges": lock.plan.edges, "waived": lock.plan.waived, "unchecked": lock.plan.unchecked},
        "(model)": {key: value for key, value in lock.model.items() if key in ("facts", "folder")},
    }
    for name, fields in lock.components.items():
        meaning[name] = fields | ({"memory": lock.memory[name]} if name in lock.memory else {})
    for name, process in lock.plan.processes.items():
        facts = {key: value for key, value in process.items() if key != "component"}
        meaning.setdefault(str(process.get("component", name)), {})[name] = facts
    return meaning
