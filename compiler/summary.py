"""What people ask of a plan: who runs where, with how much of what."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dynamoc.compiler.passes.check_memory import host_bytes
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.tiers import disk_tier_bytes, host_tier_bytes
from dynamoc.compiler.worker_memory import WorkerMemory, smallest_gpus, worker_memory
from dynamoc.runtime.manifest import CacheSettings


class ProcessSummary(msgspec.Struct, frozen=True):
    """One process. `host_bytes` is a lower bound; 0 where nothing is known."""

    name: str
    role: str
    engine: str
    node: str
    gpus: tuple[int, ...]
    cpus: int
    ports: dict[str, int]
    kv_blocks: int
    kv_tokens: int
    host_bytes: int
    ready_timeout_s: float
    """How long its start may take."""


class NodeSummary(msgspec.Struct, frozen=True):
    """What the plan takes of a node, and what the node has; 0 bytes of disk are not known."""

    name: str
    processes: int
    gpus_used: int
    gpus: int
    cpus: int
    host_bytes: int
    memory_bytes: int
    disk_tier_bytes: int
    disk_bytes: int


class CacheSummary(msgspec.Struct, frozen=True):
    """KV tiers of the workers connected to a cache, in bytes of one worker; None is a tier that is not there.

    Objects are shared by all: `object_bytes` is None where they have no bound too.
    """

    name: str
    components: tuple[str, ...]
    workers: int
    host_bytes: int | None
    disk_bytes: int | None
    disk_path: str | None
    object_bytes: int | None
    object_url: str | None
    admission: str


class KvEdge(msgspec.Struct, frozen=True):
    """Blocks go from each worker of `source` to each of `target`."""

    source: str
    target: str
    transport: str


class GpuMemory(msgspec.Struct, frozen=True):
    """The fullest rank of a component, in bytes; weights and KV are counted, the rest is estimated."""

    component: str
    gpu: str
    gpu_bytes: int
    weights: int
    activations: int
    graphs: int
    communication: int
    runtime: int
    kv: int
    kv_bytes_per_token: int
    kv_tokens: int | None
    """Of one worker, all its data-parallel groups together; None where a sequence takes the same at any length."""
    request_tokens: int | None
    concurrency: int | None
    """Requests of the load that one worker holds at once; one more has to wait. None without a load."""


class Summary(msgspec.Struct, frozen=True):
    """A plan in figures."""

    name: str
    model: str
    cluster: str
    processes: tuple[ProcessSummary, ...]
    nodes: tuple[NodeSummary, ...]
    kv_edges: tuple[KvEdge, ...]
    unchecked: tuple[str, ...] = ()
    gpu_memory: tuple[GpuMemory, ...] = ()
    caches: tuple[CacheSummary, ...] = ()
    inventory: str = ""
    """Hash of the inventory that the plan was proved against."""


def summarize(plan: Plan) -> Summary:
    """The figures of a plan; nodes without a process are left out."""
    used = sorted({process.node for process in plan.processes})
    return Summary(
        name=plan.graph.name,
        model=plan.graph.model.served_name,
        cluster=plan.cluster.name,
        processes=tuple(_process(plan, process) for process in plan.processes),
        nodes=tuple(_node(plan, index) for index in used),
        kv_edges=tuple(KvEdge(source, target, how) for (source, target), how in plan.transports.items()),
        unchecked=plan.unchecked,
        gpu_memory=tuple(_gpu_memory(plan)),
        caches=tuple(_cache(plan, c.name, c.cache) for c in plan.graph.components if c.cache is not None),
        inventory=plan.cluster.digest,
    )


def _gpu_memory(plan: Plan) -> Iterator[GpuMemory]:
    for name, gpu_bytes in smallest_gpus(plan).items():
        found = worker_memory(plan.graph, plan.graph.component(name), gpu_bytes)
        if not isinstance(found, WorkerMemory):
            continue
        rank = found.expected
        kind = next(plan.cluster.nodes[p.node].gpu_kind for p in plan.processes if p.component.name == name)
        yield GpuMemory(
            component=name,
            gpu=kind or "",
            gpu_bytes=rank.gpu,
            weights=int(rank.weights),
            activations=int(rank.activations),
            graphs=int(rank.graphs),
            communication=int(rank.communication),
            runtime=int(rank.runtime),
            kv=max(0, int(rank.kv)),
            kv_bytes_per_token=round(rank.token),
            kv_tokens=None if rank.tokens is None else rank.tokens * rank.sharding.groups,
            request_tokens=found.request,
            concurrency=found.concurrency,
        )


def _process(plan: Plan, process: Process) -> ProcessSummary:
    options = process.component.worker
    return ProcessSummary(
        name=process.name,
        role=str(process.component.role),
        engine=options.engine if options is not None else "",
        node=plan.cluster.nodes[process.node].name,
        gpus=process.gpus,
        cpus=process.cpus,
        ports=dict(process.ports),
        kv_blocks=process.kv_blocks,
        kv_tokens=process.kv_blocks * options.block_size if options is not None else 0,
        host_bytes=host_bytes(plan, process) + host_tier_bytes(process),
        ready_timeout_s=process.ready_timeout_s,
    )


def _cache(plan: Plan, name: str, cache: CacheSettings) -> CacheSummary:
    users = [edge.source for edge in plan.graph.edges if edge.target == name]
    return CacheSummary(
        name=name,
        components=tuple(sorted(users)),
        workers=sum(plan.graph.component(user).replicas for user in users),
        host_bytes=cache.host_bytes,
        disk_bytes=None if cache.disk is None else cache.disk.bytes,
        disk_path=None if cache.disk is None else cache.disk.path,
        object_bytes=None if cache.object is None else cache.object.bytes,
        object_url=None if cache.object is None else cache.object.url,
        admission=cache.admission,
    )


def _node(plan: Plan, index: int) -> NodeSummary:
    node = plan.cluster.nodes[index]
    here = [process for process in plan.processes if process.node == index]
    return NodeSummary(
        name=node.name,
        processes=len(here),
        gpus_used=sum(len(process.gpus) for process in here),
        gpus=node.gpus,
        cpus=node.cpus,
        host_bytes=sum(host_bytes(plan, process) + host_tier_bytes(process) for process in here),
        memory_bytes=node.memory_bytes,
        disk_tier_bytes=sum(disk_tier_bytes(process) for process in here),
        disk_bytes=node.disk_bytes,
    )
