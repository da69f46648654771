"""What the spec means: components with every default filled, and edges between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dynamoc.compiler.diagnostics import Path
from dynamoc.runtime.manifest import FrontendSettings, Role, RouterSettings

if TYPE_CHECKING:
    import networkx as nx


class EdgeKind(StrEnum):
    """`request`: who calls whom. `kv`: who sends blocks to whom."""

    REQUEST = "request"
    KV = "kv"


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the compiler knows of a model: enough for divisibility and KV bytes. From a card or a config.json."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
    intermediate: int | None = None
    """Width of the MLP (of one expert, in a mixture); None when unknown."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model a graph serves. `geometry` is None when neither a card nor a config.json was found."""

    ref: str
    served_name: str
    revision: str | None
    path: str | None
    geometry: Geometry | None
    at: Path = field(compare=False, repr=False, default=())


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Sizes of one worker: it has tp x pp x dp GPUs; ep divides those."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a component of workers was told, defaults filled. `kv_blocks` or `kv_bytes` sizes the pool."""

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


@dataclass(frozen=True, slots=True)
class Component:
    """A vertex: a frontend, a router or a pool of workers."""

    name: str
    role: Role
    replicas: int
    env: dict[str, str]
    port: int | None = None
    worker: WorkerOptions | None = None
    router: RouterSettings | None = None
    frontend: FrontendSettings | None = None
    at: Path = field(compare=False, repr=False, default=())


@dataclass(frozen=True, slots=True)
class Edge:
    """A directed edge. `transport` is what the user declared, None where the compiler chooses."""

    source: str
    target: str
    kind: EdgeKind
    transport: str | None = None
    at: Path = field(compare=False, repr=False, default=())


@dataclass(frozen=True, slots=True)
class Load:
    """The traffic the user expects, in tokens."""

    isl: int
    osl: int
    at: Path = field(compare=False, repr=False, default=())


@dataclass(frozen=True, slots=True)
class Allowance:
    """A rule the user switched off, and why: kept with the plan."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Names bound, defaults filled. Components and edges keep the order of the text."""

    name: str
    model: Model
    components: tuple[Component, ...]
    edges: tuple[Edge, ...]
    same_node: tuple[tuple[str, ...], ...] = ()
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

    def digraph(self) -> nx.DiGraph[str]:
        """The same as a networkx graph: vertices are component names, edges carry their `Edge` as `edge`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((c.name, {"component": c}) for c in self.components)
        graph.add_edges_from((e.source, e.target, {"edge": e}) for e in self.edges)
        return graph
