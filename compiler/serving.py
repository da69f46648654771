"""What engines that are programs of their own have in common: flags of their own, and a command to start them with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.dialect import NO_PREFIXES, EngineCapabilities, PlacedWorker, Ranks, kv_format, tier_bytes
from dynamoc.compiler.flags import FlagTable, Reading, table
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import KV_BITS, Pool, Sharding, Usage
from dynamoc.compiler.graph import SIZES, Parallelism, WorkerOptions
from dynamoc.compiler.spelling import served_at, spell_flags, unsaid
from dynamoc.runtime.manifest import Joined, PortRef, Role, Word

SERVED = EngineCapabilities(
    devices=("cuda",),
    dimensions=("tp", "pp", "dp", "ep"),
    dtypes=None,
    kv_dtypes=None,
    divides_model=True,
    shards_blocks=False,
    spans_nodes=True,
    external=True,
    start_s=900.0,
    tiers=("host",),
)
"""What all of them can do; a dialect replaces what it does differently."""


LARGEST = 2**63
EVENTS_FLAG = "kv-events-config"


class Served(msgspec.Struct, frozen=True):
    """Where an engine's own server listens, if it has one; where it publishes KV events, and the words for that."""

    serves: PortRef | None
    events: PortRef | None = None
    words: tuple[Word, ...] = ()


class HostTier(msgspec.Struct, frozen=True):
    """How an engine is told the size of its host tier: in `unit` bytes, of each rank or data-parallel group."""

    unit: int
    whole: bool
    """Fractions of a unit are lost."""
    of_ranks: bool
    switches: Mapping[str, Any] = {}
    """Facts without which the size means nothing."""

    def parts(self, parallel: Parallelism) -> int:
        """How many of them a worker has."""
        return parallel.gpus if self.of_ranks else parallel.dp


class ServedEngine:
    """They size their KV pool when they start, so the compiler knows it only where `args` say it."""

    name: str
    capabilities: EngineCapabilities
    host_tier: HostTier
    publishes_events = True
    """It says over ZeroMQ which blocks it has."""

    @property
    def table(self) -> FlagTable:
        """The engine's flags."""
        return table(self.name)

    def read(self, args: Mapping[str, Any]) -> Reading:
        """Facts of the flag table."""
        return self.table.read(args)

    def expert_ranks(self, parallel: Parallelism) -> Ranks:
        """Those of tp."""
        return Ranks(parallel.tp, f"tp = {parallel.tp}")

    def divides_experts(self, facts: Mapping[str, Any]) -> bool:
        """They refuse a remainder."""
        del facts
        return True

    def shares_world(self, facts: Mapping[str, Any]) -> bool:
        """Only where an engine says so."""
        del facts
        return False

    def ports(self, role: Role, leads: bool, nodes: int) -> tuple[str, ...]:
        """The worker's beside the engine's own server, and where processes of several nodes meet."""
        del role
        if not leads:
            return ("metrics",)
        events = ("events",) if self.publishes_events else ()
        return ("plane", "metrics", "http", *(("rendezvous",) if nodes > 1 else ()), *events)

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

    def host_cache_bytes(self, options: WorkerOptions) -> int:
        """Of its cache, else of its own flags."""
        return tier_bytes(options) or self.own_cache_bytes(options)

    def keeps_tier_in_shm(self, options: WorkerOptions) -> bool:
        """Only where an engine is known to."""
        del options
        return False

    def own_cache_bytes(self, options: WorkerOptions) -> int:
        """What its flags say a worker keeps in host memory; 0 where they leave it to the engine."""
        size, tier = options.facts.get("host_cache"), self.host_tier
        switched = all(options.facts.get(name) == on for name, on in tier.switches.items())
        if not switched or not isinstance(size, int | float) or not 0 < size < LARGEST:
            return 0
        parts = 1 if self.shares_world(options.facts) else tier.parts(options.parallel)  # each server has its own
        return int(size * tier.unit) * parts

    def tells_tier(self, options: WorkerOptions, size: int) -> dict[str, Any]:
        """A host tier of `size` bytes of one worker, as facts of its flag table."""
        told, tier = size / self.host_tier.parts(options.parallel) / self.host_tier.unit, self.host_tier
        return {**tier.switches, "host_cache": int(told) if tier.whole else told}

    def refuses_cache(self, options: WorkerOptions, role: Role) -> str | None:
        """Where it keeps no prefixes, `args` say the size too, or the engine would round it to nothing."""
        del role
        facts = options.facts
        if not options.prefix_caching or facts.get("prefix_caching") is False or facts.get("no_prefix_caching"):
            return NO_PREFIXES
        size = tier_bytes(options)
        if size and "host_cache" in options.facts:
            return f"`args` give it a host cache of their own, `{options.reading.spelled['host_cache'][-1]}`"
        if size and not self.tells_tier(options, size)["host_cache"]:
            return f"it counts in units of {self.host_tier.unit:,} B for each of its {options.parallel.gpus} ranks"
        return None

    def kv_tokens(self, options: WorkerOptions) -> int | None:
        """Tokens of the pool where it was told how large it is."""
        blocks = self.pool_blocks(None, options)
        told = options.facts.get("kv_tokens")
        return told if isinstance(told, int) else None if blocks is None else blocks * options.block_size

    def told(self, options: WorkerOptions) -> dict[str, Any]:
        """Fields that the user wrote, as facts: the engine must hear of them where `args` do not say them."""
        sizes = {name: getattr(options.parallel, name) for name in SIZES if f"parallel.{name}" in options.written}
        told = sizes | {fact: getattr(options, fact) for field, fact in PASSED.items() if field in options.written}
        if "kv_dtype" in told:
            name = kv_format(told["kv_dtype"])
            told["kv_dtype"] = self.capabilities.kv_names.get(name, name)
        size = tier_bytes(options)
        return told | (self.tells_tier(options, size) if size else {})

    def flags_of_fields(self, options: WorkerOptions) -> dict[str, Any]:
        """The same under the engine's names."""
        untold = {fact: value for fact, value in self.told(options).items() if fact not in options.facts}
        spelled = {fact: self.table.spelling(fact) for fact in untold}
        return {flag: untold[fact] for fact, flag in spelled.items() if flag is not None}

    def words(self, flags: Mapping[str, Any], options: WorkerOptions) -> Iterator[Word]:
        """Flags as words of its version's command."""
        return spell_flags(flags, self.table, options.version)

    def asks(self, flag: str, options: WorkerOptions) -> bool:
        """Whether we may add a flag: the version has it and `args` do not say it."""
        known = self.table.find(flag)
        if known is None or self.table.lacks(flag, options.version):
            return False
        return all(said.name != known[0].name for said in options.reading.flags.values())

    def events_of(self, worker: PlacedWorker, more: Mapping[str, Any]) -> Served:
        """Has the engine publish its KV events to the process beside it.

        Each data-parallel rank has a cache of its own, among which a router cannot choose: then nothing is published.
        """
        options = worker.options
        caches = options.prefix_caching and not options.facts.get("no_prefix_caching")
        caches = caches and options.facts.get("prefix_caching") is not False
        serves = served_at(worker)
        wants = self.publishes_events and caches and options.parallel.dp == 1
        if serves is None or not wants or not self.asks(EVENTS_FLAG, options):
            return Served(serves)
        port = PortRef(port=worker.ports["events"])
        config = json.dumps({"publisher": "zmq", "topic": "", **more})
        pieces = (f'{config[:-1]}, "endpoint": "tcp://127.0.0.1:', port, '"}')
        return Served(serves, port, (f"--{EVENTS_FLAG}", Joined(pieces=pieces)))

    def unsaid(self, options: WorkerOptions) -> tuple[str, ...]:
        """Flags that are false, which none of its words can say."""
        return tuple(unsaid(options.args, self.table))

    def unspelled(self, options: WorkerOptions) -> tuple[str, ...]:
        """Facts of the spec for which the engine has no flag."""
        return tuple(fact for fact in self.told(options) if self.table.spelling(fact) is None)


PASSED: Mapping[str, str] = {
    "context_length": "context_length",
    "max_batched_tokens": "max_batched_tokens",
    "max_sequences": "max_sequences",
    "block_size": "block_size",
    "kv_dtype": "kv_dtype",
    "dtype": "dtype",
    "prefix_caching": "prefix_caching",
    "kv_blocks": "kv_blocks",
    "kv_memory": "kv_bytes",
}
"""Fields of a worker that engines have flags for, and what they are as facts."""

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
