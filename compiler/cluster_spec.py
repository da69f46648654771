"""A cluster file -> Cluster: what may be written of nodes, with the same diagnostics as specs."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dynamoc.compiler.cluster import Cluster, Nics, Node, Partition, digest_of
from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Reporter
from dynamoc.compiler.edits import edit
from dynamoc.compiler.gpus import find_gpu
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.shape import read_shape
from dynamoc.compiler.source import Source
from dynamoc.compiler.spec import Name, Positive, Size, Text, TimeLimit

MAX_NODES = 10_000
OF_THE_PLAN = frozenset(
    {"array", "chdir", "comment", "error", "export", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode"}
    | {"output", "parsable", "signal", "test-only", "wait", "wrap"}
)
"""Directives of a job that follow from the plan, or that its script relies on."""
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Option = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class GpusSpec(_Part):
    """The GPUs of one node, all alike."""

    count: Positive = Field(description="GPUs of a node.")
    kind: Text = Field(description="What they are, H100.")
    memory: Size | None = Field(default=None, description="Memory of one GPU, 80 GiB; that of its kind if left out.")


class NicsSpec(_Part):
    """The network adapters of one node that carry KV, all alike."""

    count: Positive = Field(description="Adapters of a node.")
    kind: Text = Field(description="What they are, ConnectX-7.")
    bandwidth: Size = Field(description="Bytes a second of one adapter, one direction: 50 GB.")


class NodeSpec(_Part):
    """One machine, or several alike."""

    name: Name = Field(description="Name of the node; with `count`, of its series: name-0, name-1.")
    count: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = Field(default=None, description="How many such nodes.")
    cpus: Positive = Field(description="CPU cores of a node.")
    memory: Size = Field(description="Host memory of a node, 1 TiB.")
    gpus: GpusSpec | None = Field(default=None, description="Its GPUs; left out, it has none.")
    hosts: list[Text] | None = Field(default=None, description="What the site calls these nodes, one name each.")
    disk: Size | None = Field(default=None, description="Local disk of a node, 7 TiB.")
    shm: Size | None = Field(default=None, description="Size of /dev/shm on a node, 1 TiB.")
    nics: NicsSpec | None = Field(default=None, description="Its network adapters.")


class PartitionSpec(_Part):
    """A queue of the scheduler."""

    name: Text = Field(description="Name of the partition.")
    max_time: TimeLimit | None = Field(default=None, description="Longest job, 4:00:00 or 8 h.")
    max_nodes: Positive | None = Field(default=None, description="Most nodes of a job.")


class SiteSpec(_Part):
    """What a scheduler of this site must be told; a recipe never holds it."""

    partition: Line | None = Field(default=None, description="Partition of jobs.")
    account: Line | None = Field(default=None, description="Account that is charged.")
    qos: Line | None = Field(default=None, description="Quality of service.")
    reservation: Line | None = Field(default=None, description="Reservation.")
    container: Literal["pyxis", "apptainer", "podman", "docker", "none"] | None = Field(
        default=None, description="What runs containers."
    )
    mounts: list[Text] | None = Field(default=None, description="Mounts of every container, source:target[:ro].")
    interface: Line | None = Field(default=None, description="Network interface that processes bind, eth0.")
    directives: dict[Option, bool | int | Line] | None = Field(
        default=None, description="Switches of directives the site needs or refuses: `exclusive: true`."
    )
    python: Line | None = Field(
        default=None, description="Interpreter with dynamoc on the nodes; that of the submitter if left out."
    )
    images: dict[Text, Text] | None = Field(default=None, description="Images by the names that recipes use.")
    models: dict[Text, Text] | None = Field(default=None, description="Model folders by the names that recipes use.")


class ClusterSpec(_Part):
    """The inventory of a site."""

    name: Name = Field(description="Name of the cluster.")
    nodes: Annotated[list[NodeSpec], Field(min_length=1)] = Field(description="Its machines.")
    port_base: Annotated[int, Field(ge=1024, le=60000)] | None = Field(
        default=None, description="First port a plan may use on a node."
    )
    model_root: Text | None = Field(default=None, description="Folder under which models are looked up.")
    nvlink_domain_nodes: Positive | None = Field(
        default=None, description="Nodes that share an NVLink domain; what the kind of GPU says if left out."
    )
    partitions: list[PartitionSpec] | None = Field(default=None, description="Queues and their limits.")
    site: SiteSpec | None = Field(default=None, description="What a scheduler must be told.")
    provenance: Text | None = Field(default=None, description="Where these facts come from.")


def read_cluster(source: Source) -> Cluster:
    """The inventory in a file; CompileError says what is wrong with it."""
    report = Reporter(source.locate, partial(edit, source))
    spec = read_shape(ClusterSpec, _part_at, source, report)
    report.stop_on_errors()
    assert spec is not None
    nodes = _all_nodes(spec, report)
    _check_directives(spec, report)
    report.stop_on_errors()
    cluster = Cluster(
        spec.name,
        nodes,
        provenance=spec.provenance or f"file {source.name}",
        nvlink_domain_nodes=spec.nvlink_domain_nodes,
        partitions=tuple(Partition(p.name, p.max_time, p.max_nodes) for p in spec.partitions or ()),
        site={} if spec.site is None else plain(spec.site.model_dump(exclude_none=True)),
        **{key: value for key in ("port_base", "model_root") if (value := getattr(spec, key)) is not None},
    )
    return replace(cluster, digest=digest_of(cluster))


def _check_directives(spec: ClusterSpec, report: Reporter) -> None:
    for option in spec.site.directives or () if spec.site is not None else ():
        if option in OF_THE_PLAN:
            path: Path = ("site", "directives", option)
            remedy = Remedy((Drop(path),))
            report.error("D113", f"`{option}` is not the site's to set", (path, ""), at_key=True, remedies=[remedy])


def _all_nodes(spec: ClusterSpec, report: Reporter) -> tuple[Node, ...]:
    nodes: dict[str, Node] = {}
    first: dict[str, Path] = {}
    for index, entry in enumerate(spec.nodes):
        at: Path = ("nodes", index, "name")
        for node in _nodes(entry, ("nodes", index), report):
            if node.name in nodes:
                _duplicate(node.name, at, first[node.name], entry, set(nodes), report)
                break
            nodes[node.name], first[node.name] = node, at
    return tuple(nodes.values())


def _nodes(entry: NodeSpec, at: Path, report: Reporter) -> list[Node]:
    names = [entry.name] if entry.count is None else [f"{entry.name}-{number}" for number in range(entry.count)]
    hosts: list[str | None] = [*entry.hosts] if entry.hosts is not None else [None] * len(names)
    if len(hosts) != len(names):
        label = ((*at, "hosts"), f"{len(hosts)} names")
        report.error("D113", f"`hosts` names {len(hosts)} nodes, there are {len(names)}", label)
        return []
    gpus, nics = entry.gpus, entry.nics
    node = Node(
        entry.name,
        entry.cpus,
        entry.memory,
        gpus=0 if gpus is None else gpus.count,
        gpu_kind=None if gpus is None else gpus.kind,
        gpu_memory_bytes=0 if gpus is None else _memory(gpus, at, report),
        disk_bytes=entry.disk or 0,
        shm_bytes=entry.shm or 0,
        nics=None if nics is None else Nics(nics.count, nics.kind, nics.bandwidth),
    )
    return [replace(node, name=name, host=host) for name, host in zip(names, hosts, strict=True)]


def _memory(gpus: GpusSpec, at: Path, report: Reporter) -> int:
    """As written, else that of the kind."""
    if gpus.memory is not None:
        return gpus.memory
    known = find_gpu(gpus.kind)
    if known is not None:
        return known.memory
    label = ((*at, "gpus"), f"`{gpus.kind}` is not a GPU we know, so `memory` is needed here")
    remedies = [Remedy((Put((*at, "gpus", "memory"), "80 GiB"),), "add `memory`, as the driver reports it")]
    report.error("D111", "`gpus` lacks `memory`", label, at_key=True, remedies=remedies)
    return 0


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
        case (_, _, "nics"):
            return NicsSpec
        case ("partitions", *_):
            return PartitionSpec
        case ("site", *_):
            return SiteSpec
    return NodeSpec
