"""A cluster file -> Cluster: what may be written of nodes, with the same diagnostics as specs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.edits import edit
from dynamoc.compiler.shape import read_shape
from dynamoc.compiler.source import Source
from dynamoc.compiler.spec import Name, Positive, Size, Text

MAX_NODES = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class GpusSpec(_Part):
    """The GPUs of one node, all alike."""

    count: Positive = Field(description="GPUs of a node.")
    kind: Text = Field(description="What they are, H100.")
    memory: Size = Field(description="Memory of one GPU, 80 GiB.")


class NodeSpec(_Part):
    """One machine, or several alike."""

    name: Name = Field(description="Name of the node; with `count`, of its series: name-0, name-1.")
    count: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = Field(default=None, description="How many such nodes.")
    cpus: Positive = Field(description="CPU cores of a node.")
    memory: Size = Field(description="Host memory of a node, 1 TiB.")
    gpus: GpusSpec | None = Field(default=None, description="Its GPUs; left out, it has none.")


class ClusterSpec(_Part):
    """The inventory of a site."""

    name: Name = Field(description="Name of the cluster.")
    nodes: Annotated[list[NodeSpec], Field(min_length=1)] = Field(description="Its machines.")
    port_base: Annotated[int, Field(ge=1024, le=60000)] | None = Field(
        default=None, description="First port a plan may use on a node."
    )
    model_root: Text | None = Field(default=None, description="Folder under which models are looked up.")


def read_cluster(source: Source) -> Cluster:
    """The inventory in a file; CompileError says what is wrong with it."""
    report = Reporter(source.locate, partial(edit, source))
    spec = read_shape(ClusterSpec, _part_at, source, report)
    report.stop_on_errors()
    assert spec is not None
    nodes: dict[str, Node] = {}
    first: dict[str, Path] = {}
    for index, entry in enumerate(spec.nodes):
        at: Path = ("nodes", index, "name")
        for node in _nodes(entry):
            if node.name in nodes:
                _duplicate(node.name, at, first[node.name], entry, set(nodes), report)
                break
            nodes[node.name], first[node.name] = node, at
    report.stop_on_errors()
    settings: dict[str, Any] = {"port_base": spec.port_base, "model_root": spec.model_root}
    given = {key: value for key, value in settings.items() if value is not None}
    return Cluster(spec.name, tuple(nodes.values()), provenance=f"file {source.name}", **given)


def _nodes(entry: NodeSpec) -> list[Node]:
    names = [entry.name] if entry.count is None else [f"{entry.name}-{number}" for number in range(entry.count)]
    gpus = entry.gpus
    facts = (0, None, 0) if gpus is None else (gpus.count, gpus.kind, gpus.memory)
    return [Node(name, entry.cpus, entry.memory, *facts) for name in names]


def _duplicate(name: str, at: Path, first: Path, entry: NodeSpec, taken: set[str], report: Reporter) -> None:
    names = (f"{entry.name[:34]}-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    free = next((new for new in names if not any(old == new or old.startswith(f"{new}-") for old in taken)), None)
    labels = ((at, "again here"), (first, "first here"))
    remedies = [] if free is None else [Remedy((Put(at, free),))]
    report.error("D120", f"two nodes are called `{name}`", *labels, remedies=remedies)


def _part_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    match location:
        case ():
            return ClusterSpec
        case (_, _, "gpus"):
            return GpusSpec
    return NodeSpec
