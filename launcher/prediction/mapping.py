"""From a plan to questions for an estimator; what it cannot be asked is said with the reason, never guessed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dynamoc.compiler.dialect import kv_format
from dynamoc.compiler.gpus import find_gpu
from dynamoc.compiler.graph import Component, WorkerOptions
from dynamoc.compiler.layers import Experts
from dynamoc.compiler.load_plan import LoadPoint, load_plan
from dynamoc.compiler.plan import Plan
from dynamoc.launcher.prediction.question import PoolSizes, Question
from dynamoc.runtime.manifest import Role

ENGINES = ("vllm", "sglang", "trtllm")
SYSTEMS: Mapping[str, str] = {
    "A100-80GB-SXM": "a100_sxm",
    "L40S": "l40s",
    "H100-SXM": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "RTX-PRO-6000": "rtx_pro_6000_server",
}
"""The GPUs aiconfigurator has measurements of, by our name."""
KV_FORMATS = ("bfloat16", "fp8", "int8")


class NotMapped(msgspec.Struct, frozen=True):
    """What no question can be put of, and why: a load by its id, or all of them."""

    load: str | None
    reason: str


class Mapped(msgspec.Struct, frozen=True):
    """The questions of a plan, what they leave out, and what cannot be asked."""

    questions: tuple[Question, ...] = ()
    not_mapped: tuple[NotMapped, ...] = ()
    left_out: tuple[str, ...] = ()


class _UnmappedError(Exception):
    """The reason."""


def to_questions(plan: Plan) -> Mapped:
    """A question for each load that says how many requests are in flight."""
    load = load_plan(plan, 0)
    if load is None:
        return Mapped(not_mapped=(NotMapped(None, "the spec's `load:` does not say how many requests are in flight"),))
    questions, not_mapped = [], []
    try:
        prefill, pool = _pools(plan)
    except _UnmappedError as error:
        return Mapped(not_mapped=(NotMapped(None, str(error)),))
    for point in load.points:
        try:
            questions.append(_question(plan, point, prefill, pool))
        except _UnmappedError as error:
            not_mapped.append(NotMapped(point.id, str(error)))
    return Mapped(tuple(questions), tuple(not_mapped), tuple(_left_out(plan, questions)))


def _pools(plan: Plan) -> tuple[Component | None, Component]:
    """The prefill pool, if it is apart, and the one that decodes."""
    of = {role: plan.graph.of_role(role) for role in (Role.PREFILL, Role.DECODE, Role.AGGREGATED)}
    counts = tuple(len(components) for components in of.values())
    if counts not in ((1, 1, 0), (0, 0, 1)):
        names = ", ".join(component.name for components in of.values() for component in components)
        raise _UnmappedError(f"aiconfigurator knows one pool, or prefill and decode; the graph has {names}")
    if counts == (0, 0, 1):
        return None, of[Role.AGGREGATED][0]
    prefill, decode = of[Role.PREFILL][0], of[Role.DECODE][0]
    if len(found := {_options(prefill).engine, _options(decode).engine}) > 1:
        raise _UnmappedError(
            f"aiconfigurator knows one engine for both pools; the graph has {' and '.join(sorted(found))}"
        )
    return prefill, decode


def _question(plan: Plan, point: LoadPoint, prefill: Component | None, pool: Component) -> Question:
    if point.concurrency is None:
        raise _UnmappedError("it is asked by requests in flight, and the load has no `concurrency`")
    if point.rate is not None:
        raise _UnmappedError(f"it is asked by requests in flight, and a rate of {point.rate:g}/s bounds them besides")
    if point.osl < 2:
        raise _UnmappedError("an answer of one token has no time per token")
    options = _options(pool)
    cached = options if prefill is None or prefill.worker is None else prefill.worker
    return Question(
        id=point.id,
        model=_model(plan),
        engine=options.engine,
        version=options.version,
        isl=point.isl,
        osl=point.osl,
        prefix=int(point.isl * point.shared_prefix) if _caches(cached) else 0,
        concurrency=point.concurrency,
        kv_format=_kv_format(options),
        context_tokens=options.max_batched_tokens or None,
        pool=_sizes(plan, pool, point.concurrency),
        prefill=None if prefill is None else _sizes(plan, prefill, None),
    )


def _sizes(plan: Plan, component: Component, requests: int | None) -> PoolSizes:
    """The sizes of a pool with that many requests in flight, as the fullest replica has them; None: one in each."""
    options = _options(component)
    parallel = options.parallel
    if options.engine not in ENGINES:
        raise _UnmappedError(f"aiconfigurator has no measurements of the engine {options.engine} ({component.name})")
    if parallel.cp > 1 or parallel.attention_cp > 1:
        raise _UnmappedError(f"{component.name} divides contexts over ranks, which it is not asked about")
    if options.facts.get("speculative") is not None:
        raise _UnmappedError(
            f"{component.name} drafts tokens, and how many are accepted is not in the spec: it must be told"
        )
    experts, tp, dp = _has_experts(plan), parallel.attention_tp, parallel.dp
    workers = component.replicas
    if not experts and not parallel.dp_inside_tp:
        workers, dp = workers * dp, 1
    if not experts and dp > 1:
        raise _UnmappedError(f"{component.name} has data parallelism inside tp and no experts, which it does not model")
    if experts and tp * dp % parallel.ep:
        raise _UnmappedError(f"ep = {parallel.ep} of {component.name} does not divide tp x dp = {tp * dp}")
    return PoolSizes(
        system=_system(plan, component),
        tp=tp,
        pp=parallel.pp,
        dp=dp,
        moe_tp=tp * dp // parallel.ep if experts else None,
        moe_ep=parallel.ep if experts else None,
        workers=workers,
        batch=1 if requests is None else math.ceil(requests / (workers * dp)),
    )


def _system(plan: Plan, component: Component) -> str:
    kinds = {
        plan.cluster.nodes[p.node].gpu_kind for p in plan.processes if p.component.name == component.name and p.gpus
    }
    if not kinds:
        raise _UnmappedError(f"{component.name} has no GPUs")
    if len(kinds) > 1:
        raise _UnmappedError(f"{component.name} is on {' and '.join(sorted(map(str, kinds)))}")
    kind = kinds.pop()
    gpu = find_gpu(kind)
    if gpu is None or gpu.kind not in SYSTEMS:
        raise _UnmappedError(f"aiconfigurator has no measurements of the GPUs of {component.name} ({kind})")
    return SYSTEMS[gpu.kind]


def _has_experts(plan: Plan) -> bool:
    geometry = plan.graph.model.geometry
    if geometry is None:
        raise _UnmappedError(f"of {plan.graph.model.ref} neither a card nor a config.json was found")
    return any(isinstance(layer.mlp, Experts) for layer in geometry.stack)


def _model(plan: Plan) -> str:
    """The folder with its config.json where it is on this machine, else its name: aiconfigurator carries some."""
    model = plan.graph.model
    roots = os.environ.get("DYNAMOC_MODEL_ROOT", plan.cluster.model_root)
    for folder in (model.path, Path(roots) / model.ref):
        if folder is not None and (Path(folder).expanduser() / "config.json").is_file():
            return str(Path(folder).expanduser())
    return model.ref


def _kv_format(options: WorkerOptions) -> str | None:
    """As the spec says; None where the engine decides."""
    name = kv_format(options.kv_dtype)
    if name == "auto":
        return None
    if name not in KV_FORMATS:
        raise _UnmappedError(f"KV in {name}: aiconfigurator knows {', '.join(KV_FORMATS)}")
    return name


def _caches(options: WorkerOptions) -> bool:
    off = options.facts.get("no_prefix_caching") or options.facts.get("prefix_caching") is False
    return options.prefix_caching and not off


def _options(component: Component) -> WorkerOptions:
    assert component.worker is not None, "workers have options"
    return component.worker


def _left_out(plan: Plan, questions: list[Question]) -> Iterator[str]:
    """What the plan says and no question does."""
    workers = [c for c in plan.graph.components if c.role.is_worker]
    for component in workers:
        limit, worker = _options(component).max_sequences, component.worker
        fullest = max((q.pool.batch for q in questions), default=0)
        if component.role is not Role.PREFILL and 0 < limit < fullest:
            yield f"waiting: {component.name} runs {limit} requests at once, and up to {fullest} are asked about"
        if worker is not None and worker.facts.get("quantization") is not None:
            yield f"`quantization` of {component.name}: formats are those of the checkpoint"
        if plan.graph.cache_of(component.name) is not None:
            yield f"the KV tiers of {component.name}"
    if plan.transports:
        yield "moving KV from prefill to decode; a prompt is taken to be alone in its step of prefill"
    if any(q.prefix for q in questions):
        yield "requests that find their shared prefix nowhere: all are taken to find it"
