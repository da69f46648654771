"""InferenceX's matrices (`framework`, `runner`, `search-space`) -> one spec a point. Flags stand in its scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.importers.hardware import cluster_of, host_note
from dynamoc.compiler.importers.recipe import Fields, Imported, Path, RecipeError, name_of, spell, without_nothing

FRAMEWORKS = {
    "vllm": ("vllm", "native"),
    "vllm-disagg": ("vllm", "native"),
    "dynamo-vllm": ("vllm", "dynamo"),
    "sglang": ("sglang", "native"),
    "sglang-disagg": ("sglang", "native"),
    "dynamo-sglang": ("sglang", "dynamo"),
    "trt": ("trtllm", "native"),
    "dynamo-trt": ("trtllm", "dynamo"),
    "dynamo-trtllm": ("trtllm", "dynamo"),
}
"""Their words: the engine, and who starts it."""
FAMILIES = ("seq-len-configs", "scenarios")
SPACE = "search-space"
ROLES = ("prefill", "decode")
GPUS_PER_NODE = {"gb200": 4, "gb300": 4}
PRECISIONS = {"fp8": "fp8", "bf16": "bf16", "fp16": "fp16"}
IGNORED = {
    ("model-prefix",): "a short name for tables",
    ("multinode",): "whether there are several nodes follows from the sizes",
    ("disagg",): "whether prefill and decode are apart follows from the pools",
}


def recognises(documents: list[Any]) -> bool:
    """Whether every entry says with what it is served, and where."""
    data = documents[0] if len(documents) == 1 else None
    return (
        isinstance(data, dict)
        and bool(data)
        and all(isinstance(e, dict) and {"framework", "runner"} <= e.keys() for e in data.values())
    )


def read(documents: list[Any]) -> Iterator[Imported]:
    """Every element of every search space; entries of engines that are not known are said last."""
    others: dict[str, str] = {}
    for name, entry in documents[0].items():
        framework = str(entry["framework"])
        if framework in FRAMEWORKS:
            yield from _entry(name, entry)
        else:
            others[name] = framework
    if others:
        named = ", ".join(f"`{name}` ({framework})" for name, framework in others.items())
        raise RecipeError(f"these entries are served by what is not known: {named[:400]}")


def _entry(name: str, entry: Mapping[str, Any]) -> Iterator[Imported]:
    for place, loads in _families(entry):
        for number, load in enumerate(loads if isinstance(loads, list) else [loads]):
            space = load.get(SPACE) if isinstance(load, dict) else None
            if not isinstance(space, list):
                raise RecipeError(f"`{name}.{'.'.join(place)}[{number}].{SPACE}` takes a list")
            for index, element in enumerate(space):
                fields = Fields(_only(entry, place, {**load, SPACE: [element]}))
                yield _imported(name, fields, (*place, 0), spell((*place, number, SPACE, index)))


def _families(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Lists of loads, and where they stand: in a list, or by the kind of the load."""
    for family in FAMILIES:
        found = entry.get(family)
        if isinstance(found, dict):
            yield from (((family, kind), loads) for kind, loads in found.items())
        elif found is not None:
            yield (family,), found


def _only(entry: Mapping[str, Any], place: tuple[str, ...], load: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with one load of one family, and nothing else that is listed."""
    inner: Any = [load]
    for key in reversed(place):
        inner = {key: inner}
    return {**{key: value for key, value in entry.items() if key not in FAMILIES}, **inner}


def _imported(name: str, fields: Fields, load: Path, place: str) -> Imported:
    """The only element of the only load that `fields` has, which stands at `place` of the entry."""
    here: Path = (*load, SPACE, 0)
    engine, entrypoint = FRAMEWORKS[str(fields.take("framework"))]
    pools = {role: _pool(fields, (*here, role), role, engine) for role in ROLES if fields.get(*here, role) is not None}
    pools = {role: pool for role, pool in pools.items() if pool["replicas"]}
    if not pools:
        pools = {"worker": _pool(fields, here, "aggregated", engine)}
    for path, reason in IGNORED.items():
        fields.ignore(reason, *path)
    ref = (fields.take_text("model") or "model").strip("/")
    image = (fields.take_text("image") or "").replace("#", "/", 1) or None
    spec = {
        "dynamoc": 1,
        "name": name_of(f"{name}-{place}"),
        "model": without_nothing({"ref": ref, "precision": _precision(fields)}),
        "defaults": without_nothing({"engine": engine, "image": image, "entrypoint": entrypoint}),
        "components": {
            "frontend": {"role": "frontend"},
            "router": {"role": "router", "policy": "round_robin"},
            **pools,
        },
        "edges": [" -> ".join(("frontend", "router", *pools))],
        "load": _load(fields, load, here),
    }
    fields.notes.append("flags of the engines stand in scripts beside the matrix: only sizes are known here")
    cluster = _cluster(fields, list(pools.values()))

    def whole(path: str) -> str:
        return f"{name}.{path.replace(spell(here), place, 1)}"

    return Imported(
        f"{name}, {place}",
        without_nothing(spec),
        cluster,
        tuple(whole(path) for path in fields.unmapped()),
        {whole(path): reason for path, reason in fields.ignored.items()},
        tuple(fields.notes),
    )


def _pool(fields: Fields, here: Path, role: str, engine: str) -> dict[str, Any]:
    """Attention that is data parallel: over all of tp, which vLLM writes as so many copies of one rank."""
    workers = fields.take_count(*here, "num-worker")
    tp = fields.take_count(*here, "tp") or 1
    sizes = {"tp": tp, "pp": fields.take_count(*here, "pp"), "ep": fields.take_count(*here, "ep")}
    args: dict[str, Any] = {}
    if fields.take(*here, "dp-attn") is True:
        sizes |= {"tp": 1, "dp": tp} if engine == "vllm" else {"dp": tp}
        args = {"enable-dp-attention": True} if engine == "sglang" else {}
    if engine == "vllm" and (sizes["ep"] or 1) > 1:
        args = {"enable-expert-parallel": True}
        sizes["ep"] = None
    parallel = {key: size for key, size in sizes.items() if size}
    worker = {"role": role, "parallel": parallel, "gpus": tp * (sizes["pp"] or 1), "args": args or None}
    return {"replicas": 1 if workers is None else workers, **without_nothing(worker)}


def _precision(fields: Fields) -> str | None:
    """Where it is one that we have a word for."""
    precision = PRECISIONS.get(str(fields.get("precision")))
    if precision is not None:
        fields.take("precision")
    return precision


def _load(fields: Fields, load: Path, here: Path) -> dict[str, Any] | None:
    """Lengths, and the concurrencies that are listed, or doubled from the first to the last."""
    if not fields.get(*load, "isl") or not fields.get(*load, "osl"):
        return None
    isl, osl = fields.take_count(*load, "isl"), fields.take_count(*load, "osl")
    listed = fields.take(*here, "conc-list")
    first, last = fields.take_count(*here, "conc-start"), fields.take_count(*here, "conc-end")
    if listed is None and first and last:
        listed = [first * 2**step for step in range((last // first).bit_length())]
    return without_nothing({"isl": isl, "osl": osl, "concurrency": listed})


def _cluster(fields: Fields, pools: list[dict[str, Any]]) -> dict[str, Any]:
    runner = fields.take_text("runner") or "gpu"
    kind = runner.partition("-")[0].lower() or "gpu"
    node = GPUS_PER_NODE.get(kind, 8)
    fields.notes.append(f"the runner `{runner}` is taken for nodes of {node} {kind}")
    fields.notes.append(host_note(kind))
    whole = sum(pool["replicas"] * -(-pool["gpus"] // node) for pool in pools if pool["gpus"] > node)
    packed = sum(pool["replicas"] * pool["gpus"] for pool in pools if pool["gpus"] <= node)
    slack = max((pool["gpus"] for pool in pools if pool["gpus"] <= node), default=1) - 1
    return cluster_of(kind, node, whole + -(-(packed + slack) // node) if packed else whole)
