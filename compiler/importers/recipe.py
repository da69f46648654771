"""What an importer gives: a spec and a cluster as plain data, and an account of every field of the recipe."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.passes.check_environment import OWNED
from dynamoc.compiler.units import as_written
from dynamoc.compiler.written import VARIABLE

Key = str | int
Path = tuple[Key, ...]
"""Where in the recipe."""

EXTERNAL = ("sglang", "vllm", "trtllm")
"""Engines that are programs of their own, with flags and images of their own."""
MAX_NAME = 40
_DIGEST = 6
_ABSENT: Any = object()


class RecipeError(ValueError):
    """A recipe that cannot be imported; the message names the place and says why."""


class Imported(msgspec.Struct, frozen=True):
    """One recipe, or one point of its grid. `unmapped` are paths; `ignored` are paths with the reason."""

    point: str
    spec: Mapping[str, Any]
    cluster: Mapping[str, Any]
    unmapped: tuple[str, ...] = ()
    ignored: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


class Fields:
    """A recipe whose fields are taken one by one; what was neither taken nor ignored is unmapped at the end."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._taken: set[Path] = set()
        self._inner: set[Path] = set()
        self.ignored: dict[str, str] = {}
        self.notes: list[str] = []

    def get(self, *path: Key, default: Any = None) -> Any:
        """What stands at a path, without taking it."""
        found = self._find(path)
        return default if found is _ABSENT else found

    def take(self, *path: Key, default: Any = None) -> Any:
        """What stands at a path, with everything below it; from now on it counts as mapped."""
        found = self._find(path)
        if found is _ABSENT:
            return default
        self._mark(path)
        return found

    def take_map(self, *path: Key) -> dict[str, Any]:
        """A mapping, empty where nothing stands; RecipeError if it is something else."""
        found = self.take(*path)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise RecipeError(f"`{spell(path)}` takes a mapping")
        return found

    def take_count(self, *path: Key) -> int | None:
        """A whole number of 0 or more; RecipeError if it is something else."""
        found = self.take(*path)
        if found is None:
            return None
        text = str(as_written(found))
        if isinstance(found, bool) or not re.fullmatch(r"[0-9]{1,9}", text):
            raise RecipeError(f"`{spell(path)}` takes a whole number, not `{text[:60]}`")
        return int(text)

    def take_env(self, *path: Key) -> dict[str, str]:
        """Variables as the texts a process gets; what no process can be given, or the plan sets, is not taken."""
        found = self.get(*path)
        if found is not None and not isinstance(found, dict):
            raise RecipeError(f"`{spell(path)}` takes a mapping")
        env: dict[str, str] = {}
        for name, value in (found or {}).items():
            if can_be_set(name, value):
                self.take(*path, name)
                env |= {} if value is None else {name: text_of(value)}
        return env

    def take_text(self, *path: Key) -> str | None:
        """One word, None where nothing stands; RecipeError if it is a mapping or a list."""
        found = self.take(*path)
        if isinstance(found, dict | list):
            raise RecipeError(f"`{spell(path)}` takes one word")
        return None if found is None else text_of(found)

    def ignore(self, reason: str, *path: Key) -> None:
        """Leave a field out, for a reason."""
        if self._find(path) is not _ABSENT and path not in self._taken:
            self._mark(path)
            self.ignored[spell(path)] = reason

    def unmapped(self) -> tuple[str, ...]:
        """Every leaf that was neither taken nor ignored, in the order of the text."""
        return tuple(spell(path) for path in self._rest(self._data, ()))

    def _find(self, path: Path) -> Any:
        here: Any = self._data
        for key in path:
            if isinstance(key, str):
                here = here.get(key, _ABSENT) if isinstance(here, dict) else _ABSENT
            else:
                here = here[key] if isinstance(here, list) and key < len(here) else _ABSENT
        return here

    def _mark(self, path: Path) -> None:
        self._taken.add(path)
        self._inner.update(path[:length] for length in range(len(path)))

    def _rest(self, value: Any, path: Path) -> Iterator[Path]:
        if path in self._taken:
            return
        if isinstance(value, dict) and value:
            for key, entry in value.items():
                yield from self._rest(entry, (*path, key))
        elif isinstance(value, list) and (path in self._inner or any(isinstance(item, dict) for item in value)):
            for index, entry in enumerate(value):
                yield from self._rest(entry, (*path, index))
        elif path:
            yield path


def spell(path: Path) -> str:
    """A path as people read it: `spec.services.Frontend.envs[0].name`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def name_of(text: str) -> str:
    """A name of ours as like to `text` as may be; a long one ends with a digest so that two stay two."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "recipe"
    name = name if name[0].isalpha() else f"x-{name}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST // 2).hexdigest()
    return f"{name[: MAX_NAME - _DIGEST - 1].rstrip('-')}-{digest}"


def can_be_set(name: str, value: Any) -> bool:
    """Whether a recipe may give processes this variable."""
    return re.fullmatch(VARIABLE, name) is not None and name not in OWNED and not isinstance(value, dict | list)


def text_of(value: Any) -> str:
    """A scalar as it is written; `True` and `False` as Python prints them, which is what launchers hand over."""
    return str(as_written(value))


def as_number(value: Any) -> float | None:
    """A number of 0 or more, as it stands or as text; None if it is something else."""
    text = "" if value is None or isinstance(value, bool | list | dict) else text_of(value)
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else None


def without_nothing(data: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping without fields that are None or empty mappings."""
    return {key: value for key, value in data.items() if value is not None and value != {}}
