"""How the words of an engine's command are spelled from its flags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.dialect import PlacedWorker
from dynamoc.compiler.flags import FlagTable
from dynamoc.compiler.graph import Model, WorkerOptions
from dynamoc.runtime.manifest import HostRef, Word


def model_of(model: Model, options: WorkerOptions) -> str:
    """What an engine loads: a folder, or a name it looks up."""
    return str(options.facts.get("model") or model.path or model.ref)


def server_of(worker: PlacedWorker) -> list[Word]:
    """Where the engine's own server listens: only at its node's address, at the plan's port, unless `args` say so."""
    facts, words = worker.options.facts, list[Word]()
    if worker.options.entrypoint == "native" and worker.part == 0:
        words += [] if "host" in facts else ["--host", HostRef(node=worker.nodes[0])]
        words += [] if "port" in facts else ["--port", str(worker.ports["http"])]
    return words


def spell_flags(args: Mapping[str, Any], table: FlagTable) -> Iterator[Word]:
    """`args` as words, in their own spelling: lists are several words, mappings are JSON.

    True is the flag alone. False is its negation where the engine has one, else it is left out as null is: then the
    engine's default holds, which is false.
    """
    for key, value in args.items():
        if value is None or value is False:
            if value is False and table.negates(key):
                yield f"--no-{key.lstrip('-')}"
            continue
        yield key if key.startswith("-") else f"-{key}" if key in table.short else f"--{key}"
        if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
            yield from (spell_value(item) for item in value)
        elif value is not True:
            yield spell_value(value)


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
