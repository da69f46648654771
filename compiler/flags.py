"""Flag tables: what an engine's own flags are called, and what those that matter mean in our words.

A table is data (`specs/engines/<engine>.yaml`). Reading `args` with it changes nothing in them: it gives *facts*
(`tp: 8`), the place each was read from, and what there is to say about the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path as File
from typing import Any

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Path

FOLDER = File(__file__).parent.parent / "specs/engines"
_VERSION = re.compile(r"v?([0-9]{1,9}(?:\.[0-9]{1,9})*)(?:\.?(?:rc|a|b)([0-9]{1,9}))?", re.ASCII)
PARTS = 4
"""Numbers of a version that are compared."""
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_LENGTH = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([kKmM]?)", re.ASCII)
LENGTHS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}
"""What `16k` and `16K` tokens are."""
LAST_PORT = 65535
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Flag(msgspec.Struct, frozen=True):
    """One spelling of a flag. `fact` is what it means in our words.

    `gone` is a version that does not have it any more, `new` one that does not have it yet; between the versions that
    were read nothing is claimed.
    """

    name: str
    type: str = "any"
    fact: str | None = None
    gone: str | None = None
    renamed: str | None = None
    new: str | None = None
    negatable: bool = False
    """It also comes as `no-<flag>`, in versions after `switch`, where that is known."""
    switch: str | None = None


class Reading(msgspec.Struct, frozen=True):
    """What the `args` of a worker say. Paths are within `args`."""

    facts: Mapping[str, Any] = {}
    spelled: Mapping[str, Path] = {}
    flags: Mapping[Path, Flag] = {}
    unknown: tuple[Path, ...] = ()
    clashes: tuple[tuple[Path, Path], ...] = ()
    """The same flag in two spellings with different values: the first, the second."""
    mistyped: tuple[Path, ...] = ()


class FlagTable(msgspec.Struct, frozen=True):
    """The flags of one engine by folded name; nested ones are joined by dots."""

    engine: str
    flags: Mapping[str, Flag]
    abbreviates: bool = False
    """The beginning of a flag stands for it where no other begins so."""
    short: frozenset[str] = frozenset()
    """Names that are written with one dash."""

    def find(self, name: str) -> tuple[Flag, bool] | None:
        """The flag of a name in any spelling, and whether the name negates it."""
        folded = fold(name)
        flag = self.flags.get(folded)
        if flag is not None:
            return flag, False
        positive = self.flags.get(folded.removeprefix("no_")) if folded[:3] == "no_" else None
        if positive is not None and positive.negatable and folded.removeprefix("no_") not in self.short:
            return positive, True
        longer = {
            flag.name: flag for known, flag in self.flags.items() if self.abbreviates and known.startswith(folded)
        }
        return (next(iter(longer.values())), False) if len(longer) == 1 else None

    def says(self, name: str, value: bool, version: str | None) -> str | None:
        """The flag that says whether something holds; None where only its absence says it does not.

        Of a version that is not known the newest is thought.
        """
        found = self.find(name)
        if found is None:
            return name if value else None
        flag, negated = found
        if value is not negated:
            return name if value else flag.name
        runs, lacks = version_of(version), version_of(flag.switch)
        if not flag.negatable or (runs is not None and lacks is not None and runs <= lacks):
            return None
        return name if value else f"no-{flag.name}"

    def lacks(self, name: str, version: str | None) -> bool:
        """Whether a version is known not to have a flag, yet or any more."""
        flag, runs = self.flags[fold(name)], version_of(version)
        gone, new = version_of(flag.gone), version_of(flag.new)
        return runs is not None and ((gone is not None and runs >= gone) or (new is not None and runs <= new))

    def read(self, args: Mapping[str, Any]) -> Reading:
        """What `args` say; never fails."""
        facts: dict[str, Any] = {}
        spelled: dict[str, Path] = {}
        flags: dict[Path, Flag] = {}
        by_flag: dict[str, tuple[Path, Any]] = {}
        unknown, clashes, mistyped = [], [], []
        for path, value in self._entries(args, (), ""):
            found = self.find(".".join(map(str, path)))
            if found is None:
                unknown.append(path)
                continue
            flag, negated = found
            flags[path] = flag
            fits, read = convert(value, flag.type)
            read = not read if negated and isinstance(read, bool) else read
            if not fits:
                mistyped.append(path)
            earlier = by_flag.setdefault(flag.name, (path, read))
            if earlier[1] != read:
                clashes.append((earlier[0], path))
            if flag.fact is not None and fits and read is not None:
                facts[flag.fact], spelled[flag.fact] = read, path
        return Reading(facts, spelled, flags, tuple(unknown), tuple(clashes), tuple(mistyped))

    def spelling(self, fact: str) -> str | None:
        """The engine's word for a fact."""
        return next((flag.name for flag in self.flags.values() if flag.fact == fact), None)

    def _entries(self, args: Mapping[str, Any], path: Path, prefix: str) -> Iterator[tuple[Path, Any]]:
        """Flags and their values; into a mapping only where the table knows what may stand there."""
        for key, value in args.items():
            name = f"{prefix}{fold(key)}"
            flag = self.flags.get(name)
            if isinstance(value, dict) and flag is not None and flag.type == "section":
                yield from self._entries(value, (*path, key), f"{name}.")
            else:
                yield (*path, key), value


def fold(name: str) -> str:
    """A name in the one spelling that tables are searched by: `--tp-size` is `tp_size`."""
    return name.lstrip("-").replace("-", "_")


def convert(value: Any, kind: str) -> tuple[bool, Any]:
    """Whether a value is of a type, and the value as that type; numbers and truth may stand in quotes."""
    if value is None:
        return True, None
    text = value.strip().lower() if isinstance(value, str) else None
    match kind:
        case "int":
            if text is not None and _INTEGER.fullmatch(text):
                return True, int(text)
            return isinstance(value, int) and not isinstance(value, bool), value
        case "size":
            fits, number = convert(value, "int")
            return (True, None) if number == -1 else (fits and number >= 1, number)
        case "port":
            fits, number = convert(value, "int")
            return fits and 1 <= number <= LAST_PORT, number
        case "length":
            match = _LENGTH.fullmatch(value) if isinstance(value, str) else None
            return True, int(float(match[1]) * LENGTHS[match[2]]) if match else value
        case "float":
            return _float(value)
        case "bool":
            read = _TRUTH.get(text, value) if text is not None else value
            return isinstance(read, bool), read
        case "str":
            return isinstance(value, str | int | float), value
        case "list":
            return isinstance(value, list | str | int), value
    return True, value


def _float(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False, value
    try:
        return True, float(value)
    except ValueError:
        return False, value


def version_of(text: str | None) -> tuple[int, ...] | None:
    """`v0.5.8.post1` as numbers that compare, `1.3.0rc2` before `1.3.0`; None where nothing can be compared."""
    match = _VERSION.match(text or "")
    if match is None:
        return None
    release = [int(part) for part in match[1].split(".")][:PARTS]
    release += [0] * (PARTS - len(release))
    return (*release, -1, int(match[2])) if match[2] else (*release, 0)


@cache
def table(engine: str) -> FlagTable:
    """The table of an engine."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return build_table(engine, yaml.load((FOLDER / f"{engine}.yaml").read_text(), loader))  # noqa: S506  # a safe loader


def build_table(engine: str, data: Mapping[str, Any]) -> FlagTable:
    """A table from its file: `facts` one by one, the others as lists by type; then what versions lack."""
    flags: dict[str, Flag] = {}
    for kind, names in data["known"].items():
        flags |= {fold(name): Flag(name, kind) for name in names}
    for name, entry in data["facts"].items():
        for spelling in (name, *entry.get("aliases", ())):
            flags[fold(spelling)] = Flag(name, entry["type"], entry.get("fact"))
    for field_name in ("gone", "new"):
        for version, names in (data.get(field_name) or {}).items():
            for name in names:
                flags[fold(name)] = replace(flags[fold(name)], **{field_name: version})
    for name, other in (data.get("renamed") or {}).items():
        flags[fold(name)] = replace(flags[fold(name)], renamed=other)
    last_switch = {name: version for version, names in (data.get("switches") or {}).items() for name in names}
    for name in data.get("negatable", ()):
        flags |= {
            known: replace(flag, negatable=True, switch=last_switch.get(name))
            for known, flag in flags.items()
            if fold(flag.name) == fold(name)
        }
    return FlagTable(engine, flags, abbreviates=data.get("abbreviates", False), short=frozenset(data.get("short", ())))
