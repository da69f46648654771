"""What a worker was told is something its engine can do."""

from __future__ import annotations

from dynamoc.compiler.diagnostics import Drop, Path, Put, Remedy, Rename, Reporter
from dynamoc.compiler.dialect import EngineCapabilities, dialect
from dynamoc.compiler.graph import Component, Graph, WorkerOptions
from dynamoc.compiler.nearest import nearest
from dynamoc.compiler.units import spell_count

USUAL_DTYPE = "bfloat16"


def check_engines(graph: Graph, report: Reporter) -> Graph:
    """D501 device, D502 parallelism, D506 block size, D507 dtype, D508 KV dtype, D511 arguments, D531 kept KV."""
    for component in graph.components:
        if component.worker is not None:
            facts = dialect(component.worker.engine).capabilities
            _check_device(component, component.worker, facts, report)
            _check_dimensions(component, component.worker, facts, report)
            _check_dtypes(component, component.worker, facts, report)
            _check_block_size(component, component.worker, facts, report)
            _check_arguments(component, component.worker, facts, report)
            _check_kept(component, component.worker, facts, report)
    return graph


def _check_device(component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter) -> None:
    if options.device not in facts.devices:
        path = (*component.at, "device")
        report.error(
            "D501",
            f"engine `{options.engine}` does not run on `{options.device}`",
            (path, f"it runs on {_one_of(facts.devices)}"),
            remedies=[Remedy((Put(path, facts.devices[0]),))],
        )


def _check_dimensions(
    component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter
) -> None:
    for dimension in ("tp", "pp", "dp", "ep"):
        size = getattr(options.parallel, dimension)
        if size > 1 and dimension not in facts.dimensions:
            path = (*component.at, "parallel", dimension)
            report.error(
                "D502",
                f"engine `{options.engine}` does not split a worker by `{dimension}` on `{options.device}`",
                (path, "only 1 is possible"),
                remedies=[Remedy((Put(path, 1),))],
            )


def _check_dtypes(component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter) -> None:
    if facts.dtypes is None:
        return
    if options.dtype not in facts.dtypes:
        path = (*component.at, "dtype")
        report.error(
            "D507",
            f"engine `{options.engine}` does not compute in `{options.dtype}`",
            (path, f"it computes in {_one_of(facts.dtypes)}"),
            remedies=[Remedy((Put(path, USUAL_DTYPE), Put((*component.at, "kv_dtype"), USUAL_DTYPE)))],
        )
        return
    kv_dtypes = facts.kv_dtypes or (options.dtype,)
    if options.kv_dtype not in kv_dtypes:
        path = (*component.at, "kv_dtype")
        report.error(
            "D508",
            f"engine `{options.engine}` does not keep KV in `{options.kv_dtype}`",
            (path, f"with `dtype: {options.dtype}` it keeps KV in {_one_of(kv_dtypes)}"),
            remedies=[Remedy((Put(path, options.dtype),))] if options.dtype in kv_dtypes else [],
        )


def _check_block_size(
    component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter
) -> None:
    if facts.block_sizes is not None and options.block_size not in facts.block_sizes:
        path = (*component.at, "block_size")
        nearest = min(facts.block_sizes, key=lambda size: abs(size - options.block_size))
        report.error(
            "D506",
            f"engine `{options.engine}` has no blocks of {spell_count(options.block_size, 'token')}",
            (path, f"one of {', '.join(map(str, facts.block_sizes))}"),
            remedies=[Remedy((Put(path, nearest),))],
        )


def _check_arguments(component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter) -> None:
    for name in options.args if facts.arguments is not None else ():
        if name not in (facts.arguments or ()):
            path: Path = (*component.at, "args", name)
            near = nearest(name, facts.arguments or ())
            report.error(
                "D511",
                f"engine `{options.engine}` has no argument `{name}`",
                (path, "not an argument of it"),
                notes=[f"its arguments are {', '.join(f'`{known}`' for known in facts.arguments or ())}"],
                at_key=True,
                remedies=[Remedy((Rename(path, near) if near else Drop(path),))],
            )


def _check_kept(component: Component, options: WorkerOptions, facts: EngineCapabilities, report: Reporter) -> None:
    """Of engines that are ours: those know the argument."""
    if "kv" in (facts.arguments or ()) and options.args.get("kv") == "kept" and not options.prefix_caching:
        path: Path = (*component.at, "args", "kv")
        report.error(
            "D531",
            f"`kv: kept` keeps nothing in `{component.name}`",
            (path, "a worker that comes back finds prefixes"),
            ((*component.at, "prefix_caching"), "and this one has none"),
            remedies=[Remedy((Put((*component.at, "prefix_caching"), True),))],
        )


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(f"`{word}`" for word in words)
