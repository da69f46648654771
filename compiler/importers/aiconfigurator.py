"""aiconfigurator's generator configuration (`ServiceConfig`, `WorkerConfig`, `Workers`) -> our spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import (
    Fields,
    Imported,
    RecipeError,
    name_of,
    spell,
    without_nothing,
)

ROLES = {"prefill": "prefill", "decode": "decode", "agg": "aggregated"}
COMPONENT = {"prefill": "prefill", "decode": "decode", "agg": "worker"}
PARALLEL = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    "moe_expert_parallel_size": "ep",
}
EXPERT_TENSOR = "moe_tensor_parallel_size"
OPTIONS = {
    "max_batch_size": "max_sequences",
    "max_num_tokens": "max_batched_tokens",
    "max_seq_len": "context_length",
    "tokens_per_block": "block_size",
}
ENGINES = ("trtllm", "sglang", "vllm")
RUNTIMES = {"tensorrtllm-runtime": "trtllm", "sglang-runtime": "sglang", "vllm-runtime": "vllm"}
SYSTEMS = {"gb200_sxm": ("gb200", 4), "gb300_sxm": ("gb300", 4)}
"""Systems whose nodes do not have eight GPUs."""
DEFAULT_SYSTEM = "h200_sxm"


def recognises(documents: list[Any]) -> bool:
    """Whether this is one generator configuration."""
    data = documents[0] if len(documents) == 1 else None
    return (
        isinstance(data, dict) and isinstance(_workers(data), dict) and ("ServiceConfig" in data or "Workers" in data)
    )


def read(documents: list[Any]) -> Iterator[Imported]:
    """The one deployment it describes."""
    fields = Fields(documents[0])
    section = "Workers" if "Workers" in documents[0] else "params"
    roles = [role for role in ROLES if isinstance(fields.get(section, role), dict) and _count(fields, role)]
    if not roles:
        raise RecipeError(f"`{section}` names none of {', '.join(ROLES)}")
    image = fields.take_text("K8sConfig", "k8s_image")
    engine = _engine(fields, image)
    components = {COMPONENT[role]: _worker(fields, section, role, engine) for role in roles}
    model = fields.take_text("ServiceConfig", "model_path") or fields.take_text("model_path")
    served = fields.take_text("ServiceConfig", "served_model_name")
    ref = model or served or "model"
    spec = {
        "dynamoc": 1,
        "name": name_of(fields.take_text("K8sConfig", "name_prefix") or ref.rpartition("/")[2]),
        "model": without_nothing(
            {
                "ref": ref.strip("/"),
                "path": ref if ref.startswith("/") else None,
                "served_name": served,
            }
        ),
        "defaults": without_nothing(
            {
                "engine": engine,
                "image": image,
                "entrypoint": "dynamo",
            }
        ),
        "components": {
            "frontend": without_nothing({"role": "frontend", "port": fields.take_count("ServiceConfig", "port")}),
            "router": {"role": "router", "policy": _policy(fields)},
            **components,
        },
        "edges": [" -> ".join(("frontend", "router", *(COMPONENT[role] for role in roles)))],
        "load": _load(fields),
    }
    cluster = _cluster(fields, components)
    yield Imported("", without_nothing(spec), cluster, fields.unmapped(), fields.ignored, tuple(fields.notes))


def _workers(data: dict[str, Any]) -> Any:
    return data.get("Workers", data.get("params"))


def _count(fields: Fields, role: str) -> int | None:
    """Workers of a role, one where it is not said."""
    named = fields.take_count("WorkerConfig", f"{role}_workers")
    return 1 if named is None else named


def _worker(fields: Fields, section: str, role: str, engine: str) -> dict[str, Any]:
    """Sizes and budgets in our words; what else the generator was told is not the engine's own spelling."""
    here = (section, role)
    sizes = {ours: fields.take_count(*here, theirs) for theirs, ours in PARALLEL.items()}
    experts = (fields.take_count(*here, EXPERT_TENSOR) or 1) * (sizes["ep"] or 1)
    options = {ours: fields.take_count(*here, theirs) for theirs, ours in OPTIONS.items()}
    gpus = fields.take_count(*here, "gpus_per_worker") or fields.take_count("WorkerConfig", f"{role}_gpus_per_worker")
    spread = _spread(sizes, experts, engine)
    if spread != sizes:
        fields.notes.append(
            f"`{spell(here)}`: experts are on {experts} ranks, so tensor parallelism {sizes['tp'] or 1} and data "
            f"parallelism {sizes['dp'] or 1} of attention become {spread['tp']} and {spread['dp'] or 1} of the engine"
        )
    inside = experts > 1 and (spread["dp"] or 1) > 1 and engine != "vllm"
    worker = {
        "role": ROLES[role],
        "replicas": _count(fields, role),
        "gpus": gpus or ((spread["tp"] or 1) * (spread["pp"] or 1) if inside else None),
        "parallel": without_nothing(spread),
        "args": {"enable-dp-attention": True} if inside and engine == "sglang" else None,
    }
    return without_nothing({**worker, **options})


def _spread(sizes: dict[str, int | None], experts: int, engine: str) -> dict[str, int | None]:
    """The experts' ranks are all of a worker's: attention is tensor parallel over as many, or data parallel inside."""
    tp, dp = sizes["tp"] or 1, sizes["dp"] or 1
    ranks = experts // dp if engine == "vllm" else experts
    if ranks <= tp:
        return sizes
    return {**sizes, "tp": ranks, "dp": ranks if engine == "trtllm" and dp > 1 else sizes["dp"]}


def _engine(fields: Fields, image: str | None) -> str:
    places = (("backend",), ("ServiceConfig", "backend"), ("K8sConfig", "backend"))
    named = [engine for place in places if (engine := fields.take_text(*place))]
    if named:
        return named[0]
    found = [engine for runtime, engine in RUNTIMES.items() if runtime in (image or "")]
    return found[0] if found else ENGINES[0]


def _policy(fields: Fields) -> str:
    return "kv" if fields.take("K8sConfig", "enable_router") is True else "round_robin"


def _load(fields: Fields) -> dict[str, Any] | None:
    isl, osl = fields.get("SlaConfig", "isl"), fields.get("SlaConfig", "osl")
    if isl is None or osl is None:
        return None
    load = {"isl": fields.take_count("SlaConfig", "isl"), "osl": fields.take_count("SlaConfig", "osl")}
    estimated = fields.take_count("BenchConfig", "estimated_concurrency")
    return load if not estimated else {**load, "concurrency": estimated}


def _cluster(fields: Fields, components: dict[str, dict[str, Any]]) -> dict[str, Any]:
    system = fields.take_text("system") or fields.take_text("NodeConfig", "system_name") or DEFAULT_SYSTEM
    kind, size = SYSTEMS.get(system, (system.partition("_")[0], 8))
    size = fields.take_count("NodeConfig", "num_gpus_per_node") or size
    fields.notes.append(host_note(kind))
    needed = 0
    for worker in components.values():
        ranks = 1
        for name in ("tp", "pp", "dp"):
            ranks *= worker.get("parallel", {}).get(name, 1)
        gpus = worker.get("gpus", ranks)
        needed += worker["replicas"] * (gpus if gpus <= size else -(-gpus // size) * size)
    return cluster_of(kind, size, -(-needed // size))
