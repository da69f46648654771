"""A cluster file -> Cluster: what may be written of nodes, with the same diagnostics as specs."""

from functools import partial
from typing import Annotated

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from dynamoc.compiler.cluster import Cluster, Nics, Node, Partition, Storage, digest_of
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.edits import edit
from dynamoc.compiler.gpus import TERA, find_gpu
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.shape import read_shape
from dynamoc.compiler.site_spec import SiteSpec, check_site
from dynamoc.compiler.source import Source
from dynamoc.compiler.written import Name, Positive, Size, Text, TimeLimit

MAX_NODES = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class GpusSpec(_Part):
    """The GPUs of one node, all alike."""

    count: Positive = Field(description="GPUs of a node.")
    kind: Text = Field(description="What they are, H100.")
    memory: Size | None = Field(default=None, description="Memory of one GPU, 80 GiB; that of its kind if left out.")
    gres: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = Field(
        default=None, description="What the scheduler calls them: h200 in gpu:h200:8."
    )


class NicsSpec(_Part):
    """The network adapters of one node that carry KV, all alike."""

    count: Positive = Field(description="Adapters of a node.")
    kind: Text = Field(description="What they are, ConnectX-7.")
    bandwidth: Size = Field(description="Bytes a second of one adapter, one direction: 50 GB.")


class DiskSpec(_Part):
    """The local disk of one node."""

    size: Size = Field(description="What it holds, 7 TiB.")
    path: Text | None = Field(default=None, description="Where it is mounted, /scratch.")
    bandwidth: Size | None = Field(default=None, description="Bytes a second that it is read at, 12 GB.")


SizeOrDisk = Annotated[
    Annotated[Size, Tag("<size>")] | Annotated[DiskSpec, Tag("<disk>")],
    Discriminator(lambda value: "<disk>" if isinstance(value, dict | DiskSpec) else "<size>"),
]


class StorageSpec(_Part):
    """The file system with the models, shared by all nodes."""

    path: Text | None = Field(default=None, description="Where it is mounted, /models; all model folders if left out.")
    bandwidth: Size = Field(description="Bytes a second that one node reads, 5 GB.")
    total: Size | None = Field(default=None, description="Bytes a second of all nodes together, 100 GB.")


class ObjectStoreSpec(_Part):
    """The object store that KV may be kept in."""

    bandwidth: Size = Field(description="Bytes a second that one node reads, 2 GB.")


class NodeSpec(_Part):
    """One machine, or several alike."""

    name: Name = Field(description="Name of the node; with `count`, of its series: name-0, name-1.")
    count: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = Field(default=None, description="How many such nodes.")
    cpus: Positive = Field(description="CPU cores of a node.")
    memory: Size = Field(description="Host memory of a node, 1 TiB.")
    gpus: GpusSpec | None = Field(default=None, description="Its GPUs; left out, it has none.")
    hosts: list[Text] | None = Field(default=None, description="What the site calls these nodes, one name each.")
    disk: SizeOrDisk | None = Field(
        default=None, description="Local disk of a node: 7 TiB, or a mapping that says where it is and how fast."
    )
    cpu_tflops: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        default=None, description="Dense bfloat16 TFLOP/s of all cores of a node."
    )
    shm: Size | None = Field(default=None, description="Size of /dev/shm on a node, 1 TiB.")
    nics: NicsSpec | None = Field(default=None, description="Its network adapters.")


class PartitionSpec(_Part):
    """A queue of the scheduler."""

    name: Text = Field(description="Name of the partition.")
    max_time: TimeLimit | None = Field(default=None, description="Longest job, 4:00:00 or 8 h.")
    max_nodes: Positive | None = Field(default=None, description="Most nodes of a job.")


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
    storage: StorageSpec | None = Field(default=None, description="Where models are, shared by all nodes.")
    object_store: ObjectStoreSpec | None = Field(default=None, description="Where objects are.")
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
    if spec.site is not None:
        check_site(spec.site, report)
    report.stop_on_errors()
    cluster = Cluster(
        spec.name,
        nodes,
        provenance=spec.provenance or f"file {source.name}",
        nvlink_domain_nodes=spec.nvlink_domain_nodes,
        storage=Storage() if spec.storage is None else _storage(spec.storage),
        objects_bytes_per_s=0 if spec.object_store is None else spec.object_store.bandwidth,
        partitions=tuple(Partition(p.name, p.max_time, p.max_nodes) for p in spec.partitions or ()),
        site={} if spec.site is None else plain(spec.site.model_dump(exclude_none=True)),
        **{key: value for key in ("port_base", "model_root") if (value := getattr(spec, key)) is not None},
    )
    return replace(cluster, digest=digest_of(cluster))


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
    disk = entry.disk if isinstance(entry.disk, DiskSpec) else None
    node = Node(
        entry.name,
        entry.cpus,
        entry.memory,
        gpus=0 if gpus is None else gpus.count,
        gpu_kind=None if gpus is None else gpus.kind,
        gpu_memory_bytes=0 if gpus is None else _memory(gpus, at, report),
        gres=None if gpus is None else gpus.gres,
        disk_bytes=(entry.disk or 0) if not isinstance(entry.disk, DiskSpec) else entry.disk.size,
        disk_path=None if disk is None else disk.path,
        disk_bytes_per_s=0 if disk is None else disk.bandwidth or 0,
        cpu_flops=(entry.cpu_tflops or 0.0) * TERA,
        shm_bytes=entry.shm or 0,
        nics=None if nics is None else Nics(nics.count, nics.kind, nics.bandwidth),
    )
    return [replace(node, name=name, host=host) for name, host in zip(names, hosts, strict=True)]


def _storage(spec: StorageSpec) -> Storage:
    return Storage(spec.path, spec.bandwidth, spec.total or 0)


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
        case (_, _, "disk", *_):
            return DiskSpec
        case ("storage",):
            return StorageSpec
        case ("object_store",):
            return ObjectStoreSpec
        case ("partitions", *_):
            return PartitionSpec
        case ("site", *_):
            return SiteSpec
    return NodeSpec
