"""How the words of an engine's command are spelled from its flags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.dialect import PlacedWorker
from dynamoc.compiler.flags import FlagTable
from dynamoc.compiler.graph import Model, WorkerOptions
from dynamoc.runtime.manifest import FileRef, HostRef, PortRef, Word


def model_of(model: Model, options: WorkerOptions) -> str:
    """What an engine loads: a folder, or a name it looks up."""
    return str(options.facts.get("model") or model.path or model.ref)


def server_of(worker: PlacedWorker) -> list[Word]:
    """Where the engine's own server listens: only at its node's address, at the plan's port, unless `args` say so."""
    facts, words = worker.options.facts, list[Word]()
    if worker.options.entrypoint == "native" and worker.part == 0:
        words += [] if "host" in facts else ["--host", HostRef(node=worker.nodes[0])]
        words += [] if "port" in facts else ["--port", PortRef(port=worker.ports["http"])]
    return words


def served_at(worker: PlacedWorker) -> PortRef | None:
    """The port of the engine's own server; None where it has none, or `args` fix it."""
    listens = worker.options.entrypoint == "native" and worker.part == 0 and "port" not in worker.options.facts
    return PortRef(port=worker.ports["http"]) if listens else None


def spell_flags(args: Mapping[str, Any], table: FlagTable, version: str | None = None) -> Iterator[Word]:
    """`args` as words, in their own spelling: lists are several words, mappings are JSON.

    True is the flag alone, False its negation where the version of the engine has one. Else False is left out, as null
    always is: a flag that can only be switched on is off.
    """
    for key, value in args.items():
        name = table.says(key.lstrip("-"), value, version) if isinstance(value, bool) else key
        if value is None or name is None:
            continue
        yield name if name.startswith("-") else f"-{name}" if name in table.short else f"--{name}"
        if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
            yield from (spell_value(item) for item in value)
        elif isinstance(value, HostRef | PortRef | FileRef):
            yield value
        elif not isinstance(value, bool):
            yield spell_value(value)


def unsaid(args: Mapping[str, Any], table: FlagTable) -> Iterator[str]:
    """Flags that are false and have no negation, though nothing says that without them they are off."""
    for key, value in args.items():
        found = table.find(key)
        if value is False and (found is None or found[0].type not in ("bool", "section")):
            yield key


def spell_value(value: Any) -> str:
    """One value as a word."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or the text of one in JSON; empty where it is neither."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def nested(flags: Mapping[str, Any], into: Mapping[str, Any]) -> dict[str, Any]:
    """`into` with flags such as `kv_cache_config.dtype: fp8` in its sections; sections of `into` stay as they are."""
    merged = dict(into)
    for name, value in flags.items():
        section, _, rest = name.partition(".")
        inner = merged.get(section)
        merged[section] = nested({rest: value}, inner if isinstance(inner, dict) else {}) if rest else value
    return merged
