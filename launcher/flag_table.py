"""`python -m dynamoc.launcher.flag_table ENGINE VERSION=SOURCE…`: adds newer versions to an engine's flag table.

A source is a wheel, a source archive, a folder or one file; it is read, never imported. What people decide stays as it
is: `facts`, `renamed` and names that are flags elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dynamoc.compiler.flags import FOLDER, fold, version_of
from dynamoc.launcher.flag_source import Seen, read_flags, source_texts

TYPES = ("section", "bool", "int", "size", "port", "length", "float", "str", "list", "any")
WIDTH = 120
CLAIMS = ("known", "gone", "new", "renamed")
Names = dict[str, list[str]]


@dataclass(slots=True)
class Table:
    """What of a table is generated. Names are as engines write them."""

    versions: list[str]
    facts: Mapping[str, Mapping[str, object]]
    known: Names = field(default_factory=dict)
    gone: Names = field(default_factory=dict)
    new: Names = field(default_factory=dict)
    negatable: list[str] = field(default_factory=list)
    switches: Names = field(default_factory=dict)
    elsewhere: frozenset[str] = frozenset()
    """Names that no source of the engine declares: short ones, and those of other programs that start it."""
    abbreviates: bool = False

    def names(self) -> dict[str, str]:
        """Every name by its folded form."""
        names = [name for names in self.known.values() for name in names]
        for name, entry in self.facts.items():
            aliases = entry.get("aliases")
            names += [name, *(aliases if isinstance(aliases, list) else [])]
        return {fold(name): name for name in names}


def update(table: Table, version: str, seen: Mapping[str, Seen]) -> list[str]:
    """The table with one version more; lines that say what changed."""
    if table.versions and not (version_of(version) or ()) > (version_of(table.versions[-1]) or ()):
        raise ValueError(f"{version} is not newer than {table.versions[-1]}")
    names, said = table.names(), list[str]()
    present = {fold(name): flag for name, flag in seen.items()}
    for key, flag in sorted(present.items()):
        if key not in names:
            table.known.setdefault(flag.type, []).append(flag.name)
            if table.versions:
                _claim(table.new, table.versions[-1], flag.name)
            said.append(f"new: {flag.name}")
        elif flag.type not in table.known or names[key] not in table.known[flag.type]:
            _retype(table, names[key], said)
        said += _returned(table, names.get(key, flag.name))
        said += _negation(table, names.get(key, flag.name), flag, was_there=key in names)
    for key, name in sorted(names.items()):
        if key not in present and not _explained(table, key, name, present):
            _claim(table.gone, version, name)
            said.append(f"gone: {name}")
    table.versions.append(version)
    return said


def _retype(table: Table, name: str, said: list[str]) -> None:
    """Two versions that disagree on a type leave it open; that of a fact is people's to say."""
    for type_, names in table.known.items():
        if name in names and type_ != "any":
            names.remove(name)
            table.known.setdefault("any", []).append(name)
            said.append(f"no longer {type_}: {name}")
            return


def _returned(table: Table, name: str) -> list[str]:
    """What was gone and is there again is not claimed to be either."""
    for names in table.gone.values():
        if name in names:
            names.remove(name)
            return [f"there again: {name}"]
    return []


def _negation(table: Table, name: str, flag: Seen, was_there: bool) -> list[str]:
    if flag.negated is (name in table.negatable):
        return []
    if not flag.negated:
        table.negatable.remove(name)
        return [f"no longer negatable: {name}"]
    table.negatable.append(name)
    if was_there and table.versions:
        _claim(table.switches, table.versions[-1], name)
    return [f"negatable: {name}"]


def _explained(table: Table, key: str, name: str, present: Iterable[str]) -> bool:
    """Whether a flag that the source lacks was gone before, is none of its own, or is the beginning of one."""
    before = any(name in names for names in table.gone.values()) or name in table.elsewhere
    return before or (table.abbreviates and sum(other.startswith(key) for other in present) == 1)


def _claim(claims: Names, version: str, name: str) -> None:
    claims.setdefault(version, []).append(name)


def read_table(text: str) -> Table:
    """The generated parts of a table's file."""
    data = yaml.safe_load(text)
    elsewhere = {*data.get("short", ()), *data.get("elsewhere", ())}
    return Table(
        versions=list(data.get("versions", ())),
        facts=data["facts"],
        known={type_: list(names) for type_, names in (data.get("known") or {}).items()},
        gone=dict(data.get("gone") or {}),
        new=dict(data.get("new") or {}),
        negatable=list(data.get("negatable") or ()),
        switches=dict(data.get("switches") or {}),
        elsewhere=frozenset(elsewhere),
        abbreviates=data.get("abbreviates", False),
    )


def write_table(text: str, table: Table) -> str:
    """The file with its generated sections replaced; all else stays as people wrote it."""
    known = {type_: sorted(table.known[type_], key=fold) for type_ in TYPES if table.known.get(type_)}
    parts = {
        "versions": f"versions: [{', '.join(json.dumps(version) for version in table.versions)}]\n",
        "negatable": _listed("negatable", {"": table.negatable}),
        "switches": _listed("switches", table.switches),
        "known": _listed("known", known),
        "gone": _listed("gone", table.gone),
        "new": _listed("new", table.new),
    }
    sections = _sections(text)
    for name, part in parts.items():
        sections[name] = part
    return "".join(sections[name] for name in ORDER if name in sections)


ORDER = ("", "versions", "abbreviates", "short", "elsewhere", "negatable", "switches", "facts", *CLAIMS)


def _sections(text: str) -> dict[str, str]:
    """The text of each key at the top, the comment before the first one under the empty name."""
    sections, at = {"": ""}, ""
    for line in text.splitlines(keepends=True):
        if line[0] not in " #\n-":
            at = line.partition(":")[0]
            sections[at] = ""
        sections[at] += line
    return sections


def _listed(title: str, groups: Names) -> str:
    """A key with lists of names by version or type, in lines of the usual width; nothing where there are no names."""
    lines = []
    for group, names in groups.items():
        if names:
            lines += [f'  "{group}":' if group[:1].isdigit() else f"  {group}:"] if group else []
            lines += _wrapped(sorted(names, key=fold), "    [" if group else "  [")
    return "\n".join([f"{title}:", *lines, ""]) if lines else ""


def _wrapped(names: Sequence[str], start: str) -> list[str]:
    lines, line = [], start
    for index, name in enumerate(names):
        word = name + (", " if index < len(names) - 1 else "]")
        if len(line) + len(word.rstrip()) >= WIDTH - 1:
            lines.append(line.rstrip())
            line = " " * len(start)
        line += word
    return [*lines, line]


def main(arguments: Sequence[str]) -> int:
    """Updates one table in place and prints what changed; 2 where a source cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m dynamoc.launcher.flag_table", description=__doc__)
    parser.add_argument("engine", choices=("vllm", "sglang", "trtllm"))
    parser.add_argument("sources", nargs="+", metavar="VERSION=SOURCE")
    parser.add_argument("--table", type=Path, help="the table's file, if not the one of this package")
    told = parser.parse_args(arguments)
    file = told.table or FOLDER / f"{told.engine}.yaml"
    text = file.read_text()
    table = read_table(text)
    try:
        for source in told.sources:
            version, _, path = source.partition("=")
            for line in update(table, version, read_flags(told.engine, source_texts(told.engine, Path(path)))):
                print(f"{version}: {line}")
    except (OSError, ValueError, SyntaxError) as error:
        parser.error(str(error))
    beside = file.with_suffix(".new")
    beside.write_text(write_table(text, table))
    beside.replace(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
