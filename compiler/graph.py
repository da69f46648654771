"""What the spec means: components with every default filled, and edges between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from dynamoc.compiler.diagnostics import Path
from dynamoc.compiler.flags import Reading
from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.load import Load
from dynamoc.runtime.manifest import CacheSettings, FrontendSettings, Role, RouterSettings

if TYPE_CHECKING:
    import networkx as nx


SIZES = ("tp", "pp", "dp", "ep")


class EdgeKind(StrEnum):
    """`request`: who calls whom. `kv`: who sends blocks to whom. `cache`: who keeps blocks in which tiers."""

    REQUEST = "request"
    KV = "kv"
    CACHE = "cache"


class Model(msgspec.Struct, frozen=True):
    """The model a graph serves. `geometry` is None when neither a card nor a config.json was found."""

    ref: str
    served_name: str
    revision: str | None
    path: str | None
    geometry: Geometry | None
    precision: str | None = None
    """What the user says of the weights; where the card says otherwise, the geometry is not `exact`."""
    at: Path = ()


class Parallelism(msgspec.Struct, frozen=True):
    """Sizes of one worker as its dialect reads them: tp x pp x cp ranks, times dp unless that is inside tp.

    `cp` counts context-parallel ranks beside tp, `attention_cp` those inside it; ep divides the ranks.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    cp: int = 1
    attention_cp: int = 1
    dp_inside_tp: bool = False

    @property
    def gpus(self) -> int:
        """World size: ranks of one worker, a GPU each."""
        return math.prod(self.factors.values())

    @property
    def factors(self) -> dict[str, int]:
        """What multiplies to the world size."""
        factors = {"tp": self.tp, "pp": self.pp}
        factors |= {} if self.dp_inside_tp else {"dp": self.dp}
        return factors | ({"cp": self.cp} if self.cp > 1 else {})

    @property
    def arithmetic(self) -> str:
        """The multiplication, spelled: `tp x pp x dp = 4 x 1 x 2 = 8`."""
        factors = self.factors
        return f"{' x '.join(factors)} = {' x '.join(map(str, factors.values()))} = {self.gpus}"

    @property
    def attention_tp(self) -> int:
        """Ranks over which attention heads divide; 1 or more even where the sizes do not divide."""
        inside = self.attention_cp * (self.dp if self.dp_inside_tp else 1)
        return max(1, self.tp // inside)


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a component of workers was told, defaults filled. `kv_blocks` or `kv_bytes` sizes the pool.

    Where an engine decides for itself and nothing was written, `context_length`, `max_batched_tokens` and
    `max_sequences` are 0, and `dtype` and `kv_dtype` are `auto`. `reading` is what `args` say in our words,
    `written` names the fields of the spec that the user wrote.
    """

    engine: str
    version: str | None
    device: str
    dtype: str
    kv_dtype: str
    block_size: int
    kv_blocks: int | None
    kv_bytes: int | None
    context_length: int
    max_batched_tokens: int
    max_sequences: int
    prefix_caching: bool
    cpus: int | None
    parallel: Parallelism
    args: dict[str, Any]
    gpus: int | None = None
    """GPUs allotted to one worker; None: as many as it has ranks."""
    nodes: int | None = None
    nodes_per_worker: int | None = None
    image: str | None = None
    entrypoint: str = "native"
    cache: CacheSettings | None = None
    """Tiers of one worker, from the cache it is connected to."""
    reading: Reading = Reading()
    written: frozenset[str] = frozenset()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `args` say, by fact."""
        return self.reading.facts

    @property
    def allotted(self) -> int:
        """GPUs one worker has, whether it uses them or not."""
        if self.device != "cuda":
            return 0
        return self.parallel.gpus if self.gpus is None else self.gpus


class Component(msgspec.Struct, frozen=True):
    """A vertex: a frontend, a router, a pool of workers or their cache, of which there is no process."""

    name: str
    role: Role
    replicas: int
    env: dict[str, str]
    port: int | None = None
    worker: WorkerOptions | None = None
    router: RouterSettings | None = None
    frontend: FrontendSettings | None = None
    cache: CacheSettings | None = None
    image: str | None = None
    ready_timeout_s: float | None = None
    """As the user says; None where it follows from what a start takes."""
    at: Path = ()

    def where(self, fact: str) -> Path:
        """Where a fact of the worker stands in the spec, or may be written."""
        if self.worker is not None and fact in self.worker.reading.spelled:
            return (*self.at, "args", *self.worker.reading.spelled[fact])
        return (*self.at, "parallel", fact) if fact in SIZES else (*self.at, fact)


class Edge(msgspec.Struct, frozen=True):
    """A directed edge. `transport` is what the user declared, None where the compiler chooses."""

    source: str
    target: str
    kind: EdgeKind
    transport: str | None = None
    at: Path = ()


class Allowance(msgspec.Struct, frozen=True):
    """A rule the user switched off, and why: kept with the plan."""

    code: str
    reason: str


class Graph(msgspec.Struct, frozen=True):
    """Names bound, defaults filled. Components and edges keep the order of the text."""

    name: str
    model: Model
    components: tuple[Component, ...]
    edges: tuple[Edge, ...]
    same_node: tuple[tuple[str, ...], ...] = ()
    reserve_nodes: int = 0
    time_limit_s: float | None = None
    load: Load | None = None
    allow: tuple[Allowance, ...] = ()

    def component(self, name: str) -> Component:
        """The component called `name`; KeyError if there is none."""
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)

    def of_role(self, role: Role) -> tuple[Component, ...]:
        """Components of one role."""
        return tuple(c for c in self.components if c.role is role)

    def cache_of(self, name: str) -> Component | None:
        """The cache that a component of workers is connected to."""
        caches = (self.component(edge.target) for edge in self.edges if edge.source == name)
        return next((cache for cache in caches if cache.cache is not None), None)

    def digraph(self) -> nx.DiGraph[str]:
        """The same as a networkx graph: vertices are component names, edges carry their `Edge` as `edge`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((c.name, {"component": c}) for c in self.components)
        graph.add_edges_from((e.source, e.target, {"edge": e}) for e in self.edges)
        return graph
