"""What the compiler knows of an engine: a table of facts, the memory it needs, and where it is registered."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dynamoc.compiler.graph import Geometry, WorkerOptions

DIALECTS: Mapping[str, str] = {
    "native": "dynamoc.compiler.engines.native",
    "mocker": "dynamoc.compiler.engines.mocker",
    "echo": "dynamoc.compiler.engines.echo",
}


@dataclass(frozen=True, slots=True)
class EngineCapabilities:
    """Facts the rules look up. `block_sizes` and `arguments` of None are not checked."""

    devices: tuple[str, ...]
    dimensions: tuple[str, ...]
    """Parallel dimensions that may be larger than 1."""
    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...] | None
    """None: KV is kept in `dtype`."""
    divides_model: bool
    """Heads and layers must divide over the ranks."""
    shards_blocks: bool
    """The bytes of a block depend on `tp`, so both sides of a KV edge must have the same."""
    block_sizes: tuple[int, ...] | None = None
    arguments: tuple[str, ...] | None = None


class EngineDialect(Protocol):
    """One per engine. Pure functions of what the user wrote; `geometry` is None where nothing is known of the model."""

    name: str
    capabilities: EngineCapabilities

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """Blocks of the KV pool; None where only the user can say."""
        ...

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Host memory of one worker, at least; what is unknown counts nothing."""
        ...


def dialect(name: str) -> EngineDialect:
    """The dialect of a registered engine; KeyError if there is none."""
    found: EngineDialect = importlib.import_module(DIALECTS[name]).DIALECT
    return found
