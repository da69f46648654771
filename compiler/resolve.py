"""Spec -> Graph: defaults filled, names bound, edges read from chains, the model's geometry known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from dynamoc.compiler.codes import CODES, NEVER_WAIVED
from dynamoc.compiler.diagnostics import Change, Drop, Path, Put, Remedy, Reporter, Waiver, spell
from dynamoc.compiler.dialect import DIALECTS
from dynamoc.compiler.edges import resolve_edges, unknown_component
from dynamoc.compiler.edits import leaves
from dynamoc.compiler.graph import (
    Allowance,
    Component,
    Geometry,
    Graph,
    Load,
    Model,
    Parallelism,
    WorkerOptions,
)
from dynamoc.compiler.models import ModelLibrary, ModelTextError
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.spec import FrontendSpec, ModelSpec, RouterSpec, Spec, WorkerFields, WorkerSpec
from dynamoc.compiler.units import as_written
from dynamoc.runtime.manifest import FrontendSettings, Role, RouterSettings

DEFAULT_PORT = 8000
LATER_ENGINES = ("vllm", "sglang", "trtllm")
KV_POLICY_FIELDS = ("overlap_credit", "prefill_load_scale", "temperature")
WORKER_DEFAULTS: Mapping[str, Any] = {
    "replicas": 1,
    "engine": "native",
    "device": "cpu",
    "dtype": "bfloat16",
    "block_size": 16,
    "max_batched_tokens": 2048,
    "max_sequences": 64,
    "prefix_caching": True,
}

Settings = TypeVar("Settings", FrontendSettings, RouterSettings)


def resolve(spec: Spec, report: Reporter, models: ModelLibrary) -> Graph:
    """What the spec means. A graph comes back even when errors were reported; it is then not to be used."""
    allowed = _allowances(spec, report)
    geometry = _geometry(spec, report, models)
    _check_effects(spec, report)
    components = tuple(_component(spec, name, geometry, report) for name in spec.components)
    return Graph(
        name=spec.name,
        model=_model(spec.model, geometry),
        components=components,
        edges=resolve_edges(spec, report),
        same_node=_same_node(spec, report),
        load=None if spec.load is None else Load(spec.load.isl, spec.load.osl, at=("load",)),
        allow=allowed,
    )


def _model(model: ModelSpec, geometry: Geometry | None) -> Model:
    ref = model.ref or str(model.path).rstrip("/").rpartition("/")[2]
    served = model.served_name or ref.rpartition("/")[2]
    return Model(ref, served, model.revision, model.path, geometry, at=("model",))


def _geometry(spec: Spec, report: Reporter, models: ModelLibrary) -> Geometry | None:
    """Geometry of the model; an error where the context length then depends on nothing."""
    model = spec.model
    if model.ref is None and model.path is None:
        report.error("D111", "`model` lacks `ref`", (("model",), "`ref` or `path` is needed here"), at_key=True)
        return None
    at: Path = ("model", "path" if model.path else "ref")
    try:
        geometry = models.geometry(model.path, model.ref)
    except ModelTextError as error:
        report.error("D205", "what is known of the model cannot be read", (at, "of this model"), notes=[str(error)])
        return None
    if geometry is not None:
        return geometry
    silent = [n for n, c in spec.components.items() if isinstance(c, WorkerSpec) and c.context_length is None]
    if silent and (spec.defaults is None or spec.defaults.context_length is None):
        report.error(
            "D205",
            f"nothing is known of the model `{model.path or model.ref}`",
            (at, "no card and no config.json"),
            notes=[f"the context length of `{silent[0]}` follows from the model where it is not written"],
            remedies=[Remedy((Put(("defaults", "context_length"), 4096),))],
        )
    return None


def _component(spec: Spec, name: str, geometry: Geometry | None, report: Reporter) -> Component:
    component = spec.components[name]
    at: Path = ("components", name)
    role = Role(component.role)
    env = dict(component.env or {})
    if isinstance(component, FrontendSpec):
        settings = _settings(component, FrontendSettings)
        port = component.port or DEFAULT_PORT
        return Component(name, role, component.replicas or 1, env, port=port, frontend=settings, at=at)
    if isinstance(component, RouterSpec):
        _check_router(component, at, report)
        return Component(name, role, 1, env, router=_settings(component, RouterSettings), at=at)
    defaults = spec.defaults or WorkerFields()
    merged = _merged(component, defaults)
    if component.engine is not None:
        _check_engine(component.engine, (*at, "engine"), report)
    if "version" in merged and merged["engine"] in DIALECTS:
        _no_effect((*at, "version"), f"the engine `{merged['engine']}` has the version of dynamoc", report)
    env = {**(defaults.env or {}), **env}
    return Component(name, role, merged["replicas"], env, worker=_options(merged, geometry), at=at)


def _merged(worker: WorkerSpec, defaults: WorkerFields) -> dict[str, Any]:
    """Own fields over the file's defaults over ours; `args`, `env` and `parallel` key by key."""
    own = {key: value for key, value in worker if value is not None}
    common = {key: value for key, value in defaults if value is not None}
    if "kv_blocks" in own or "kv_memory" in own:
        common.pop("kv_blocks", None)
        common.pop("kv_memory", None)
    merged = {**WORKER_DEFAULTS, **common, **own}
    merged["args"] = {**(defaults.args or {}), **(worker.args or {})}
    sizes = [part for part in (defaults.parallel, worker.parallel) if part is not None]
    merged["parallel"] = {key: size for part in sizes for key, size in part if size is not None}
    return merged


def _options(merged: Mapping[str, Any], geometry: Geometry | None) -> WorkerOptions:
    context_length = merged.get("context_length") or (geometry.context_length if geometry else 1)
    return WorkerOptions(
        engine=merged["engine"],
        version=merged.get("version"),
        device=merged["device"],
        dtype=merged["dtype"],
        kv_dtype=merged.get("kv_dtype", merged["dtype"]),
        block_size=merged["block_size"],
        kv_blocks=merged.get("kv_blocks"),
        kv_bytes=merged.get("kv_memory"),
        context_length=context_length,
        max_batched_tokens=merged["max_batched_tokens"],
        max_sequences=merged["max_sequences"],
        prefix_caching=merged["prefix_caching"],
        cpus=merged.get("cpus"),
        parallel=Parallelism(**merged["parallel"]),
        args=plain(merged["args"]),
    )


def _settings(spec: FrontendSpec | RouterSpec, kind: type[Settings]) -> Settings:
    """The manifest's settings; its fields carry their unit in the name."""
    unit = {"max_body": "max_body_bytes", "request_timeout": "request_timeout_s", "queue_timeout": "queue_timeout_s"}
    unit |= {"stalled_client": "stalled_client_s", "router_wait": "router_wait_s"}
    written = {unit.get(key, key): value for key, value in spec if value is not None}
    return kind(**{key: plain(written[key]) for key in kind.__struct_fields__ if key in written})


def _check_router(spec: RouterSpec, at: Path, report: Reporter) -> None:
    if spec.policy not in (None, "kv"):
        for key in KV_POLICY_FIELDS:
            if getattr(spec, key) is not None:
                _no_effect((*at, key), f"the policy is `{spec.policy}`", report)


def _check_effects(spec: Spec, report: Reporter) -> None:
    """Fields that would change nothing, or exclude each other."""
    if spec.model.revision is not None and spec.model.ref is None:
        _no_effect(("model", "revision"), "it is the revision of a `ref`", report)
    places: list[tuple[Path, WorkerFields]] = [] if spec.defaults is None else [(("defaults",), spec.defaults)]
    places += [(("components", n), c) for n, c in spec.components.items() if isinstance(c, WorkerSpec)]
    for at, fields in places:
        _check_numbers(fields.args or {}, (*at, "args"), report)
        if fields.kv_blocks is not None and fields.kv_memory is not None:
            both: tuple[Path, Path] = ((*at, "kv_memory"), (*at, "kv_blocks"))
            labels = ((both[0], "this is one size of the KV cache"), (both[1], "this is another"))
            remedies = [Remedy((Drop(path),)) for path in both]
            report.error("D115", "`kv_blocks` and `kv_memory` exclude each other", *labels, remedies=remedies)
    if spec.defaults is not None and spec.defaults.engine is not None:
        _check_engine(spec.defaults.engine, ("defaults", "engine"), report)


def _check_numbers(args: Mapping[str, Any], at: Path, report: Reporter) -> None:
    """The manifest holds finite numbers and integers of 64 bits."""
    for path, value in leaves(args, at):
        wide = isinstance(value, int) and not -(2**63) <= value < 2**63
        if wide or (isinstance(value, float) and not math.isfinite(value)):
            label = (path, "an integer of more than 64 bits" if wide else "not a finite number")
            remedy = Remedy((Put(path, as_written(value)),), "hand it over as text: put it in quotes")
            report.error("D113", f"{spell(path)} cannot be handed to an engine", label, remedies=[remedy])


def _no_effect(at: Path, why: str, report: Reporter) -> None:
    report.error("D116", f"`{at[-1]}` has no effect", (at, why), at_key=True, remedies=[Remedy((Drop(at),))])


def _check_engine(engine: str, at: Path, report: Reporter) -> None:
    if engine in DIALECTS:
        return
    known = ", ".join(f"`{name}`" for name in DIALECTS)
    if engine in LATER_ENGINES:
        message = f"the engine `{engine}` is not available in this version"
    else:
        message = f"the engine `{engine}` is not known"
    near = get_close_matches(engine, DIALECTS, 1) or ["native"]
    changes: tuple[Change, ...] = (Put(at, near[0]),)
    report.error(
        "D204",
        message,
        (at, "not an engine of this version"),
        notes=[f"engines are {known}"],
        remedies=[Remedy(changes)],
    )


def _same_node(spec: Spec, report: Reporter) -> tuple[tuple[str, ...], ...]:
    """Groups of components; a plain list of names is one group."""
    wish = spec.placement.same_node if spec.placement is not None else None
    if not wish:
        return ()
    at: Path = ("placement", "same_node")
    names = [index for index, entry in enumerate(wish) if isinstance(entry, str)]
    if names and len(names) < len(wish):
        remedies = [Remedy((Put((*at, index), [wish[index]]),)) for index in names[:1] if len(names) == 1]
        label = ((*at, names[0]), "a name between lists")
        report.error("D113", "`same_node` holds names and lists of names", label, remedies=remedies)
    groups: list[tuple[Path, Sequence[str]]] = (
        [(at, [str(name) for name in wish])]
        if len(names) == len(wish)
        else [((*at, index), entry) for index, entry in enumerate(wish) if isinstance(entry, list)]
    )
    for path, group in groups:
        for index, name in enumerate(group):
            if name not in spec.components:
                unknown_component(name, (*path, index), spec, report)
    return tuple(tuple(group) for _, group in groups)


def _allowances(spec: Spec, report: Reporter) -> tuple[Allowance, ...]:
    for index, waiver in enumerate(spec.allow or ()):
        at: Path = ("allow", index, "code")
        if waiver.code not in CODES:
            near = get_close_matches(waiver.code, [code for code in CODES if code >= "D3"], 1)
            remedies = [Remedy((Put(at, near[0]),))] if near else [Remedy((Drop(at[:-1]),))]
            report.error("D206", f"there is no rule `{waiver.code}`", (at, "unknown code"), remedies=remedies)
        elif waiver.code < "D3" or waiver.code in NEVER_WAIVED:
            label = (at, f"{CODES[waiver.code]}")
            notes = ["without this rule there is no plan"]
            remedies = [Remedy((Drop(at[:-1]),))]
            report.error("D206", f"`{waiver.code}` cannot be waived", label, notes=notes, remedies=remedies)
        else:
            report.waivers.append(Waiver(waiver.code, waiver.reason, at[:-1]))
    return tuple(Allowance(waiver.code, waiver.reason) for waiver in spec.allow or ())
