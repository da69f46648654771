"""What a pool of workers was told, with every default filled: the spec's fields, then `args`, then the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamoc.compiler.dialect import EngineDialect
from dynamoc.compiler.flags import fold
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.spec import WorkerFields, WorkerSpec

WORKER_DEFAULTS: Mapping[str, Any] = {
    "replicas": 1,
    "engine": "native",
    "device": "cpu",
    "dtype": "bfloat16",
    "block_size": 16,
    "max_batched_tokens": 2048,
    "max_sequences": 64,
    "prefix_caching": True,
    "entrypoint": "native",
}
FROM_ARGS = ("context_length", "max_batched_tokens", "max_sequences", "block_size", "kv_dtype", "dtype")
"""Fields that `args` may say as well."""
COUNTS = FROM_ARGS[:4]
KEY_BY_KEY = ("args", "env", "parallel", "role")


def merge(worker: WorkerSpec, defaults: WorkerFields) -> dict[str, Any]:
    """Own fields over the file's defaults; `parallel` key by key, `args` flag by flag when the engine is known."""
    own = {key: value for key, value in worker if value is not None}
    common = {key: value for key, value in defaults if value is not None}
    if "kv_blocks" in own or "kv_memory" in own:
        common.pop("kv_blocks", None)
        common.pop("kv_memory", None)
    written = {**common, **own}
    sizes = [part for part in (defaults.parallel, worker.parallel) if part is not None]
    written["parallel"] = {key: size for part in sizes for key, size in part if size is not None}
    return written


def merge_args(dialect: EngineDialect, worker: WorkerSpec, defaults: WorkerFields) -> dict[str, Any]:
    """A flag of the worker replaces that of the defaults, in whatever spelling."""
    own = worker.args or {}
    if not defaults.args:
        return own
    names = {_name(dialect, key) for key in own}
    return {key: value for key, value in defaults.args.items() if _name(dialect, key) not in names} | own


def _name(dialect: EngineDialect, key: str) -> str:
    flag = next(iter(dialect.read({key: None}).flags.values()), None)
    return fold(flag.name) if flag is not None else key


def build_options(
    written: Mapping[str, Any], args: Mapping[str, Any], dialect: EngineDialect, geometry: Geometry | None
) -> WorkerOptions:
    """The options of a worker. What the spec says wins over `args`; where both say something, a pass compares them."""
    args = plain(dict(args))
    reading = dialect.read(args)
    device = written.get("device") or dialect.capabilities.devices[0]
    told = {name: _usable(name, reading.facts.get(name)) for name in FROM_ARGS}
    told = {name: value for name, value in told.items() if value is not None}
    filled = {**WORKER_DEFAULTS, "device": device, **dialect.capabilities.defaults, **told, **written}
    return WorkerOptions(
        engine=dialect.name,
        version=filled.get("version"),
        device=filled["device"],
        dtype=filled["dtype"],
        kv_dtype=filled.get("kv_dtype", filled["dtype"]),
        block_size=filled["block_size"],
        kv_blocks=filled.get("kv_blocks"),
        kv_bytes=filled.get("kv_memory"),
        context_length=filled.get("context_length") or (geometry.context_length if geometry else 0),
        max_batched_tokens=filled["max_batched_tokens"],
        max_sequences=filled["max_sequences"],
        prefix_caching=filled["prefix_caching"],
        cpus=filled.get("cpus"),
        parallel=dialect.parallel(reading.facts, written["parallel"]),
        args=_in_order(args),
        gpus=filled.get("gpus"),
        nodes=filled.get("nodes"),
        nodes_per_worker=filled.get("nodes_per_worker"),
        image=filled.get("image"),
        entrypoint=filled["entrypoint"],
        reading=reading,
        written=_written(written),
    )


def _in_order(value: Any) -> Any:
    """The same data with sorted keys: the order in which a user writes them changes no command."""
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def _usable(name: str, value: Any) -> Any:
    """A value that stands for itself; None where it stands for the engine's choice (`auto`, -1)."""
    if name in COUNTS:
        return value if isinstance(value, int) and value > 0 else None
    return None if value is None else str(value)


def _written(written: Mapping[str, Any]) -> frozenset[str]:
    names = {name for name in written if name not in KEY_BY_KEY}
    return frozenset(names | {f"parallel.{name}" for name in written["parallel"]})
