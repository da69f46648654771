"""What engines that are programs of their own have in common: flags of their own, and a command to start them with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.dialect import EngineCapabilities
from dynamoc.compiler.flags import FlagTable, Reading, table
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import KV_BITS, Pool, Sharding, Usage
from dynamoc.compiler.graph import SIZES, Model, WorkerOptions
from dynamoc.runtime.manifest import Role, Word


class ServedEngine:
    """They size their KV pool when they start, so the compiler knows it only where `args` say it."""

    name: str
    capabilities: EngineCapabilities

    @property
    def table(self) -> FlagTable:
        """The engine's flags."""
        return table(self.name)

    def read(self, args: Mapping[str, Any]) -> Reading:
        """Facts of the flag table."""
        return self.table.read(args)

    def shares_world(self, facts: Mapping[str, Any]) -> bool:
        """Only where an engine says so."""
        del facts
        return False

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """The worker's beside the engine's own server, and where processes of several nodes meet."""
        del role
        if not leads:
            return ("metrics",)
        return ("plane", "metrics", "http", *(("rendezvous",) if nodes > 1 else ()))

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """As told; otherwise the engine decides."""
        del geometry
        if options.kv_blocks is not None:
            return options.kv_blocks
        tokens = options.facts.get("kv_tokens")
        return tokens // options.block_size if tokens else None

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Its caches are on GPUs."""
        del geometry, options, blocks
        return 0

    def kv_tokens(self, options: WorkerOptions) -> int | None:
        """Tokens of the pool where it was told how large it is."""
        blocks = self.pool_blocks(None, options)
        told = options.facts.get("kv_tokens")
        return told if isinstance(told, int) else None if blocks is None else blocks * options.block_size

    def flags_of_fields(self, options: WorkerOptions) -> dict[str, Any]:
        """Fields of the spec that the engine must be told and `args` do not say, under the engine's names."""
        fields = {name: getattr(options.parallel, name) for name in SIZES if f"parallel.{name}" in options.written}
        fields |= {name: getattr(options, name) for name in PASSED if name in options.written}
        spelled = {name: self.table.spelling(name) for name in fields if name not in options.facts}
        return {flag: fields[name] for name, flag in spelled.items() if flag is not None}


PASSED = ("context_length", "max_batched_tokens", "max_sequences", "block_size", "kv_dtype", "dtype", "prefix_caching")
"""Fields of a worker that have a flag in most engines."""


PLAIN_DTYPES = {"auto": "bfloat16", "half": "float16", "float": "float32"}
"""Types of weights and activations by an engine's name for them."""


def usage_of(options: WorkerOptions, sharding: Sharding, pool: Pool, fraction: float, **more: Any) -> Usage:
    """How a worker uses its GPUs. `fraction` is the engine's own where `args` say none, the rest is as given."""
    facts, dtype = options.facts, options.dtype
    dtype = PLAIN_DTYPES.get(dtype, dtype)
    kv_dtype = options.kv_dtype if options.kv_dtype in KV_BITS else dtype
    told = facts.get("memory_fraction")
    usable = isinstance(told, int | float) and 0 < told <= 1
    if usable and told is not None:
        fraction = float(told)
    return Usage(
        sharding=sharding,
        pool=pool,
        fraction=fraction,
        fraction_is_ours=not usable,
        dtype=dtype if dtype in KV_BITS else "bfloat16",
        kv_dtype=kv_dtype if kv_dtype in KV_BITS else "bfloat16",
        kv_dtype_is_ours=options.kv_dtype not in KV_BITS,
        **more,
    )


def positive(*values: Any) -> int:
    """The first that is a positive whole number; 0 if none is."""
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), 0)


def model_of(model: Model, options: WorkerOptions) -> str:
    """What an engine loads: a folder, or a name it looks up."""
    return str(options.facts.get("model") or model.path or model.ref)


def spell_flags(args: Mapping[str, Any], lists: str) -> Iterator[Word]:
    """`args` as words: true is the flag alone, false and null are left out, mappings are JSON.

    `lists` is `words` where the engine takes the items of a list as words, `json` where as one.
    """
    for key, value in args.items():
        flag = key if key.startswith("-") else f"--{key}"
        if value is None or value is False:
            continue
        yield flag
        if isinstance(value, list) and lists == "words":
            yield from (spell_value(item) for item in value)
        elif value is not True:
            yield spell_value(value)


def spell_value(value: Any) -> str:
    """One value as a word."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
