"""What the compiler knows of an engine: a table of facts, the memory it needs, and where it is registered."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from dynamoc.compiler.flags import Reading
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import Usage
from dynamoc.compiler.graph import SIZES, Model, Parallelism, WorkerOptions
from dynamoc.runtime.manifest import Launch, Role

DIALECTS: Mapping[str, str] = {
    "native": "dynamoc.compiler.engines.native",
    "vllm": "dynamoc.compiler.engines.vllm",
    "sglang": "dynamoc.compiler.engines.sglang",
    "trtllm": "dynamoc.compiler.engines.trtllm",
    "mocker": "dynamoc.compiler.engines.mocker",
    "echo": "dynamoc.compiler.engines.echo",
}


KV_FORMATS: Mapping[str, str] = {
    "fp8_e4m3": "fp8",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8_e5m2",
    "bf16": "bfloat16",
    "half": "float16",
}


NO_PREFIXES = "its prefix caching is off, and tiers keep prefixes"


def tier_bytes(options: WorkerOptions) -> int:
    """Host memory of one worker that its cache says; 0 where there is no such tier."""
    return 0 if options.cache is None else options.cache.host_bytes or 0


def kv_format(name: str) -> str:
    """One name for formats of KV that are the same."""
    return KV_FORMATS.get(name.lower(), name.lower())


class EngineCapabilities(msgspec.Struct, frozen=True):
    """Facts the rules look up. `block_sizes` and `arguments` of None are not checked."""

    devices: tuple[str, ...]
    dimensions: tuple[str, ...]
    """Parallel dimensions that may be larger than 1."""
    dtypes: tuple[str, ...] | None
    kv_dtypes: tuple[str, ...] | None
    """None: KV is kept in `dtype`."""
    divides_model: bool
    """Heads and layers must divide over the ranks."""
    shards_blocks: bool
    """The bytes of a block depend on `tp`, so both sides of a KV edge must have the same."""
    block_sizes: tuple[int, ...] | None = None
    transports: tuple[str, ...] = ("shm", "tcp")
    """How KV can move between its workers; the first is what an engine of its own does unless told."""
    gpu_transports: tuple[str, ...] | None = None
    """The same where its pools are in GPU memory; None: as in host memory."""
    spans_nodes: bool = False
    """A worker may be several processes, one a node."""
    external: bool = False
    """A program of its own, started with its own words: it sizes its KV pool and decides what was not written."""
    bounds_context: bool = True
    """It refuses a context longer than the model's."""
    copies_over_nodes: bool = True
    """Data parallelism beside tp may span nodes."""
    resizes_blocks: bool = False
    """A worker takes KV in blocks of another size than its own."""
    kv_names: Mapping[str, str] = {}
    """What it calls a format of KV, by `kv_format`."""
    defaults: Mapping[str, Any] = {}
    """Fields of a worker where neither the spec nor `args` say."""
    arguments: tuple[str, ...] | None = None
    start_s: float = 60.0
    """What a start may take beside the reading of weights: imports, compilation, the capture of graphs."""
    tiers: tuple[str, ...] = ()
    """Tiers of a cache that its workers keep: `host`, `disk`, `object`."""


def transports_of(options: WorkerOptions) -> tuple[str, ...]:
    """How KV can move out of and into the pools of such workers."""
    facts = dialect(options.engine).capabilities
    on_gpu = facts.gpu_transports if options.device == "cuda" else None
    return facts.transports if on_gpu is None else on_gpu


class PlacedWorker(msgspec.Struct, frozen=True):
    """One process of a worker, as its dialect must know it. `nodes` are those of the worker, in order of its ranks."""

    role: Role
    options: WorkerOptions
    model: Model
    nodes: tuple[int, ...]
    part: int
    """Which of the worker's processes this is; 0 leads."""
    gpus: tuple[int, ...]
    ports: Mapping[str, int]
    """Of the leading process."""
    transport: str | None


class Ranks(msgspec.Struct, frozen=True):
    """Some of a worker's ranks, and how they are counted."""

    count: int
    arithmetic: str
    indivisible: bool = False
    """All of them or one."""


class OwnEngine:
    """What engines of this package have in common: their sizes are those of the spec."""

    def shares_world(self, facts: Mapping[str, Any]) -> bool:
        """Each of their workers is a world of its own."""
        del facts
        return False

    def read(self, args: Mapping[str, Any]) -> Reading:
        """Their options are no flags."""
        del args
        return Reading()

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """As written."""
        del facts
        tp, pp, dp, ep = (sizes.get(name, 1) for name in SIZES)
        return Parallelism(tp, pp, dp, ep)

    def command(self, worker: PlacedWorker) -> Launch | None:
        """They are started as workers of the runtime."""
        del worker
        return None

    def expert_ranks(self, parallel: Parallelism) -> Ranks:
        """All of a worker."""
        return Ranks(parallel.gpus, parallel.arithmetic)

    def divides_experts(self, facts: Mapping[str, Any]) -> bool:
        """A remainder is not spread."""
        del facts
        return True

    def unspelled(self, options: WorkerOptions) -> tuple[str, ...]:
        """They read the spec's fields themselves."""
        del options
        return ()

    def unsaid(self, options: WorkerOptions) -> tuple[str, ...]:
        """Their options are data."""
        del options
        return ()

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """The worker's own; a worker is one process."""
        del role, leads, nodes
        return ("plane", "metrics")

    def host_cache_bytes(self, options: WorkerOptions) -> int:
        """As the cache says."""
        return tier_bytes(options)

    def keeps_tier_in_shm(self, options: WorkerOptions) -> bool:
        """Theirs is memory of the process."""
        del options
        return False

    def refuses_cache(self, options: WorkerOptions, role: Role) -> str | None:
        """What they keep they keep in every role, if they keep prefixes."""
        del role
        return None if options.prefix_caching else NO_PREFIXES

    def usage(self, options: WorkerOptions, role: Role) -> Usage | None:
        """Their pools are in host memory, or simulated."""
        del options, role
        return None


class EngineDialect(Protocol):
    """One per engine. Pure functions of what the user wrote; `geometry` is None where nothing is known of the model."""

    name: str
    capabilities: EngineCapabilities

    def read(self, args: Mapping[str, Any]) -> Reading:
        """What the engine's own options say in our words."""
        ...

    def parallel(self, facts: Mapping[str, Any], sizes: Mapping[str, int]) -> Parallelism:
        """The sizes of a worker: what the spec says (`sizes`), else `args`, else the engine's defaults."""
        ...

    def shares_world(self, facts: Mapping[str, Any]) -> bool:
        """Whether the sizes are those of all replicas together, as behind a load balancer over data-parallel ranks."""
        ...

    def command(self, worker: PlacedWorker) -> Launch | None:
        """How one process of a worker is started; None where the engine is part of this package."""
        ...

    def expert_ranks(self, parallel: Parallelism) -> Ranks:
        """The ranks over which the experts of a layer can be spread."""
        ...

    def divides_experts(self, facts: Mapping[str, Any]) -> bool:
        """Whether ep must divide the number of experts."""
        ...

    def unspelled(self, options: WorkerOptions) -> tuple[str, ...]:
        """Facts of the spec that the engine cannot be told."""
        ...

    def unsaid(self, options: WorkerOptions) -> tuple[str, ...]:
        """Keys of `args` that its command leaves out, though that may not be what they say."""
        ...

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """What a process of a worker over so many nodes listens for."""
        ...

    def pool_blocks(self, geometry: Geometry | None, options: WorkerOptions) -> int | None:
        """Blocks of the KV pool; None where only the user can say."""
        ...

    def host_bytes(self, geometry: Geometry | None, options: WorkerOptions, blocks: int) -> int:
        """Host memory of one worker, at least; what is unknown counts nothing."""
        ...

    def host_cache_bytes(self, options: WorkerOptions) -> int:
        """Host memory of one worker for KV that left its device, at least: of its cache, or as `args` say."""
        ...

    def keeps_tier_in_shm(self, options: WorkerOptions) -> bool:
        """Whether its host tier is in files of /dev/shm, as far as that is known."""
        ...

    def refuses_cache(self, options: WorkerOptions, role: Role) -> str | None:
        """Why a worker cannot keep the tiers that its engine knows; None where it can."""
        ...

    def usage(self, options: WorkerOptions, role: Role) -> Usage | None:
        """How a worker uses its GPUs; None where the engine keeps nothing on them."""
        ...


def dialect(name: str) -> EngineDialect:
    """The dialect of a registered engine; KeyError if there is none."""
    found: EngineDialect = importlib.import_module(DIALECTS[name]).DIALECT
    return found
