"""Plan -> Manifest: the same facts in the runtime's words."""

from __future__ import annotations

import hashlib

import msgspec

from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import EdgeKind
from dynamoc.compiler.plan import Plan, Process
from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    Edge,
    KvSettings,
    Manifest,
    ModelRef,
    PortRange,
    ProcessSpec,
    Role,
    WorkerSettings,
    encode_manifest,
)

START_ORDER = {Role.PREFILL: 0, Role.DECODE: 1, Role.AGGREGATED: 1, Role.ROUTER: 2, Role.FRONTEND: 3}
"""All start at once; they stop in reverse, so that no request is accepted that nobody would answer."""

HASH_BYTES = 16


def lower(plan: Plan) -> Manifest:
    """The manifest of a plan; equal plans give equal bytes, and `plan_hash` names them."""
    model = plan.graph.model
    first, count = plan.cluster.port_range
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name=plan.graph.name,
        plan_hash="",
        model=ModelRef(ref=model.ref, served_name=model.served_name, revision=model.revision, path=model.path),
        nodes=plan.nodes,
        processes=tuple(_process(process) for process in plan.processes),
        edges=_edges(plan),
        model_root=plan.cluster.model_root,
        port_range=PortRange(first=first, count=count),
    )
    digest = hashlib.blake2b(encode_manifest(manifest).encode(), digest_size=HASH_BYTES).hexdigest()
    return msgspec.structs.replace(manifest, plan_hash=digest)


def _process(process: Process) -> ProcessSpec:
    component = process.component
    return ProcessSpec(
        name=process.name,
        component=component.name,
        role=component.role,
        replica=process.replica,
        part=process.part,
        launch=process.launch,
        node=process.node,
        argv=process.argv,
        gpus=process.gpus,
        ranks=process.ranks,
        env=dict(process.env),
        ports=dict(process.ports),
        start_order=START_ORDER[component.role],
        ready_timeout_s=process.ready_timeout_s,
        worker=_worker(process),
        router=component.router,
        frontend=component.frontend,
    )


def _worker(process: Process) -> WorkerSettings | None:
    options = process.component.worker
    if options is None:
        return None
    return WorkerSettings(
        engine=options.engine,
        device=options.device,
        dtype=options.dtype,
        kv=KvSettings(
            block_size=options.block_size,
            blocks=process.kv_blocks,
            dtype=options.kv_dtype,
            prefix_caching=options.prefix_caching,
        ),
        context_length=options.context_length,
        max_batched_tokens=options.max_batched_tokens,
        max_sequences=options.max_sequences,
        transport=process.transport,
        cache=None if dialect(options.engine).capabilities.external else options.cache,
        args=options.args,
    )


def _edges(plan: Plan) -> tuple[Edge, ...]:
    edges = [
        Edge(source=e.source, target=e.target, kind=str(e.kind), transport=plan.transports.get((e.source, e.target)))
        for e in plan.graph.edges
        if e.kind is not EdgeKind.CACHE  # it names no process: what it says is in the settings of the workers
    ]
    return tuple(sorted(edges, key=lambda e: (e.source, e.target)))
