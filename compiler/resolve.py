"""Spec -> Graph: defaults filled, names bound, edges read from chains, the model's geometry known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from dynamoc.compiler.cache_spec import CacheSpec
from dynamoc.compiler.codes import CODES, NEVER_WAIVED
from dynamoc.compiler.diagnostics import Change, Drop, Path, Put, Remedy, Reporter, Waiver, spell
from dynamoc.compiler.dialect import DIALECTS, dialect
from dynamoc.compiler.edges import resolve_edges, unknown_component
from dynamoc.compiler.edits import leaves
from dynamoc.compiler.effects import no_effect
from dynamoc.compiler.geometry import WIDTHS, Geometry
from dynamoc.compiler.graph import (
    Allowance,
    Component,
    Edge,
    Graph,
    Model,
)
from dynamoc.compiler.models import ModelLibrary, ModelTextError
from dynamoc.compiler.nearest import nearest
from dynamoc.compiler.options import WORKER_DEFAULTS, build_options, merge, merge_args
from dynamoc.compiler.resolve_load import resolve_load
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.spec import FrontendSpec, ModelSpec, RouterSpec, Spec, WorkerFields, WorkerSpec
from dynamoc.compiler.trace_facts import TraceFacts
from dynamoc.compiler.units import as_written
from dynamoc.runtime.manifest import CacheSettings, DiskTier, FrontendSettings, ObjectTier, Role, RouterSettings

DEFAULT_PORT = 8000
KV_POLICY_FIELDS = ("overlap_credit", "prefill_load_scale", "temperature")
Settings = TypeVar("Settings", FrontendSettings, RouterSettings)


def resolve(
    spec: Spec, report: Reporter, models: ModelLibrary, traces: Mapping[str, TraceFacts] | None = None
) -> Graph:
    """What the spec means. A graph comes back even when errors were reported; it is then not to be used."""
    allowed = _allowances(spec, report)
    geometry = _geometry(spec, report, models)
    _check_effects(spec, report)
    components = tuple(_component(spec, name, geometry, report) for name in spec.components)
    edges = resolve_edges(spec, report)
    return Graph(
        name=spec.name,
        model=_model(spec.model, geometry),
        components=tuple(_with_cache(component, components, edges) for component in components),
        edges=edges,
        same_node=_same_node(spec, report),
        reserve_nodes=(spec.placement.reserve_nodes if spec.placement is not None else None) or 0,
        time_limit_s=spec.time_limit,
        load=None if spec.load is None else resolve_load(spec.load, traces or {}, report),
        allow=allowed,
    )


def _model(model: ModelSpec, geometry: Geometry | None) -> Model:
    ref = model.ref or str(model.path).rstrip("/").rpartition("/")[2]
    served = model.served_name or ref.rpartition("/")[2]
    if geometry is not None and model.precision is not None and geometry.width != WIDTHS[model.precision]:
        geometry = replace(geometry, exact=False)
    return Model(ref, served, model.revision, model.path, geometry, model.precision, at=("model",))


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
    silent = [n for n, c in spec.components.items() if isinstance(c, WorkerSpec) and _needs_model(c, spec)]
    if silent:
        report.error(
            "D205",
            f"nothing is known of the model `{model.path or model.ref}`",
            (at, "no card and no config.json"),
            notes=[f"the context length of `{silent[0]}` follows from the model where it is not written"],
            remedies=[Remedy((Put(("defaults", "context_length"), 4096),))],
        )
    return None


def _needs_model(worker: WorkerSpec, spec: Spec) -> bool:
    """Whether the context length of a worker follows from the model; other programs look at the model themselves."""
    written = merge(worker, spec.defaults or WorkerFields())
    engine = written.get("engine", WORKER_DEFAULTS["engine"])
    external = engine in DIALECTS and dialect(engine).capabilities.external
    return not external and "context_length" not in written


def _component(spec: Spec, name: str, geometry: Geometry | None, report: Reporter) -> Component:
    component = spec.components[name]
    at: Path = ("components", name)
    role = Role(component.role)
    if isinstance(component, CacheSpec):
        return Component(name, role, 1, {}, cache=_cache(component), at=at)
    env = dict(component.env or {})
    if isinstance(component, FrontendSpec):
        settings = _settings(component, FrontendSettings)
        return Component(
            name,
            role,
            component.replicas or 1,
            env,
            port=component.port or DEFAULT_PORT,
            frontend=settings,
            image=component.image,
            ready_timeout_s=component.ready_timeout,
            at=at,
        )
    if isinstance(component, RouterSpec):
        _check_router(component, at, report)
        router = _settings(component, RouterSettings)
        return Component(name, role, 1, env, router=router, ready_timeout_s=component.ready_timeout, at=at)
    return _worker(name, component, spec.defaults or WorkerFields(), geometry, report)


def _worker(
    name: str, worker: WorkerSpec, defaults: WorkerFields, geometry: Geometry | None, report: Reporter
) -> Component:
    """A pool of workers; of an engine that is not known it is read as one of ours."""
    at: Path = ("components", name)
    written = merge(worker, defaults)
    if worker.engine is not None:
        _check_engine(worker.engine, (*at, "engine"), report)
    wanted = written.get("engine", WORKER_DEFAULTS["engine"])
    engine = dialect(wanted if wanted in DIALECTS else WORKER_DEFAULTS["engine"])
    if not engine.capabilities.external and wanted in DIALECTS:
        _check_own(written, at, engine.name, report)
    options = build_options(written, merge_args(engine, worker, defaults), engine, geometry)
    env = {**(defaults.env or {}), **(worker.env or {})}
    replicas = written.get("replicas", WORKER_DEFAULTS["replicas"])
    return Component(
        name,
        Role(worker.role),
        replicas,
        env,
        worker=options,
        image=options.image,
        ready_timeout_s=written.get("ready_timeout"),
        at=at,
    )


def _cache(spec: CacheSpec) -> CacheSettings:
    tiers = spec.tiers
    return CacheSettings(
        host_bytes=tiers.host,
        disk=None if tiers.disk is None else DiskTier(path=tiers.disk.path, bytes=tiers.disk.size),
        object=None if tiers.object is None else ObjectTier(url=tiers.object.url, bytes=tiers.object.size),
        **({} if spec.admission is None else {"admission": spec.admission}),
    )


def _with_cache(component: Component, components: Sequence[Component], edges: Sequence[Edge]) -> Component:
    """A worker keeps the tiers of the first cache it leads to; a pass reports a second one."""
    targets = {edge.target for edge in edges if edge.source == component.name}
    caches = [other.cache for other in components if other.name in targets and other.cache is not None]
    if component.worker is None or not caches:
        return component
    return replace(component, worker=replace(component.worker, cache=caches[0]))


def _check_own(written: Mapping[str, Any], at: Path, engine: str, report: Reporter) -> None:
    """Fields that only engines have which are programs of their own."""
    why = {
        "version": f"the engine `{engine}` has the version of dynamoc",
        "image": f"the engine `{engine}` is part of dynamoc",
        "entrypoint": f"the engine `{engine}` is part of dynamoc",
        "nodes_per_worker": f"a worker of the engine `{engine}` is on one node",
    }
    for field, reason in why.items():
        if field in written:
            no_effect((*at, field), reason, report)


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
                no_effect((*at, key), f"the policy is `{spec.policy}`", report)


def _check_effects(spec: Spec, report: Reporter) -> None:
    """Fields that would change nothing, or exclude each other."""
    if spec.model.revision is not None and spec.model.ref is None:
        no_effect(("model", "revision"), "it is the revision of a `ref`", report)
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


def _check_engine(engine: str, at: Path, report: Reporter) -> None:
    if engine in DIALECTS:
        return
    known = ", ".join(f"`{name}`" for name in DIALECTS)
    message = f"the engine `{engine}` is not known"
    near = nearest(engine, DIALECTS) or "native"
    changes: tuple[Change, ...] = (Put(at, near),)
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
            near = nearest(waiver.code, [code for code in CODES if code >= "D3"])
            remedies = [Remedy((Put(at, near),))] if near else [Remedy((Drop(at[:-1]),))]
            report.error("D206", f"there is no rule `{waiver.code}`", (at, "unknown code"), remedies=remedies)
        elif waiver.code < "D3" or waiver.code in NEVER_WAIVED:
            label = (at, f"{CODES[waiver.code]}")
            notes = ["without this rule there is no plan"]
            remedies = [Remedy((Drop(at[:-1]),))]
            report.error("D206", f"`{waiver.code}` cannot be waived", label, notes=notes, remedies=remedies)
        else:
            report.waivers.append(Waiver(waiver.code, waiver.reason, at[:-1]))
    return tuple(Allowance(waiver.code, waiver.reason) for waiver in spec.allow or ())
