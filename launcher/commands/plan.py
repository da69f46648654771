"""`dynamoc plan SPEC`: who runs where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import CLUSTER, FORMAT, SPEC, Findings, read_inputs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dynamoc.compiler.plan import Plan
    from dynamoc.compiler.summary import CacheSummary, Summary
    from dynamoc.launcher.prediction.predict import Prediction

WIDE = 160
"""Columns where no terminal says how many there are."""


@click.command(name="plan")
@SPEC
@CLUSTER
@FORMAT
@click.option("--predict", "predicts", is_flag=True, help="Add what aiconfigurator estimates of the spec's load.")
def command(spec: Path, cluster: Path | None, form: str, predicts: bool) -> None:
    """Show who runs where for SPEC: nodes, GPUs, cores, ports, KV pools and the paths of KV."""
    from dynamoc.compiler.pipeline import build_plan
    from dynamoc.compiler.summary import summarize

    findings = Findings(form)
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        plan, warnings = build_plan(inputs.source, inputs.cluster, inputs.models)
    findings.show(warnings)
    summary = summarize(plan)
    prediction = _predict(plan) if predicts else None
    if form == "json":
        import msgspec

        shown = summary if prediction is None else {**msgspec.structs.asdict(summary), "prediction": prediction}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    _print(summary, console)
    if prediction is not None:
        from dynamoc.launcher.prediction.shown import show

        show(prediction, console)


def _predict(plan: Plan) -> Prediction:
    from dynamoc.launcher.prediction.aiconfigurator import PredictionError
    from dynamoc.launcher.prediction.predict import predict

    try:
        return predict(plan)
    except PredictionError as error:
        raise click.ClickException(str(error)) from error


def _print(summary: Summary, console: Console) -> None:
    console.print(f"[bold]{summary.name}[/] serves {summary.model} on {summary.cluster}\n")
    console.print(_processes(summary))
    console.print(_ports(summary))
    for edge in summary.kv_edges:
        console.print(f"KV moves {edge.source} → {edge.target} by [bold]{edge.transport}[/]\n")
    for cache in summary.caches:
        console.print(_cache(cache), markup=False, soft_wrap=True)
    console.print(_nodes(summary))
    if summary.gpu_memory:
        console.print(_gpu_memory(summary))
    for line in summary.unchecked:
        console.print(f"unchecked: {line}", markup=False, soft_wrap=True)


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    """Words first, then numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in left:
        table.add_column(title, overflow="fold")
    for title in right:
        table.add_column(title, justify="right", overflow="fold")
    return table


def _processes(summary: Summary) -> Table:
    table = _table(("process", "role", "engine", "node", "GPUs"), ("cores", "blocks", "tokens", "memory ≥"))
    for process in summary.processes:
        table.add_row(
            process.name,
            process.role,
            process.engine,
            process.node,
            _range(process.gpus),
            _number(process.cpus),
            _number(process.kv_blocks),
            _number(process.kv_tokens),
            _size(process.host_bytes),
        )
    table.add_row()
    return table


def _ports(summary: Summary) -> Table:
    purposes = list(dict.fromkeys(purpose for process in summary.processes for purpose in process.ports))
    table = _table(("ports",), purposes)
    for process in summary.processes:
        table.add_row(process.name, *(str(process.ports.get(purpose, "")) for purpose in purposes))
    table.add_row()
    return table


def _cache(cache: CacheSummary) -> str:
    """`cache` of prefill: 2 workers, each 512 MiB of host memory (1 GiB together); objects are of all of them."""
    tiers = []
    for size, where in ((cache.host_bytes, "of host memory"), (cache.disk_bytes, f"in {cache.disk_path}")):
        together = f" ({_size(size * cache.workers)} together)" if size and cache.workers > 1 else ""
        tiers += [f"{_size(size)} {where}{together}"] if size else []
    if cache.object_url is not None:
        shared = " shared by all" if cache.workers > 1 else ""
        tiers.append(f"{_size(cache.object_bytes) if cache.object_bytes else 'no bound'} in {cache.object_url}{shared}")
    count = f"{cache.workers} workers, each" if cache.workers > 1 else "one worker,"
    return f"{cache.name} of {', '.join(cache.components)} ({cache.admission}): {count} {', '.join(tiers)}\n"


def _nodes(summary: Summary) -> Table:
    disks = any(node.disk_tier_bytes for node in summary.nodes)
    table = _table(("node",), ("processes", "GPUs", "cores", "memory ≥", "of", *(("disk", "of") if disks else ())))
    for node in summary.nodes:
        gpus = f"{node.gpus_used} of {node.gpus}" if node.gpus else ""
        sizes = _size(node.host_bytes), _size(node.memory_bytes)
        disk = (_size(node.disk_tier_bytes), _size(node.disk_bytes)) if disks else ()
        table.add_row(node.name, str(node.processes), gpus, str(node.cpus), *sizes, *disk)
    return table


def _gpu_memory(summary: Summary) -> Table:
    """One rank of each component, the fullest; what the load takes where there is one."""
    load = next((memory.request_tokens for memory in summary.gpu_memory if memory.request_tokens), None)
    words = ("\nGPU memory of a rank", "\nGPU")
    sizes = ("\nof", "\nweights", "activa-\ntions ~", "\ngraphs ~", "\nbuffers ~", "run-\ntime ~", "\nKV ~")
    table = _table(words, (*sizes, "a token", "tokens\nof a worker ~", *(("requests\nat once ~",) if load else ())))
    for memory in summary.gpu_memory:
        beside = (memory.activations, memory.graphs, memory.communication, memory.runtime)
        parts = (memory.gpu_bytes, memory.weights, *beside, memory.kv)
        kv = _size(memory.kv_bytes_per_token), _number(memory.kv_tokens or 0)
        once = (f"{memory.concurrency or 0:,} of {memory.request_tokens:,} tokens",) if load else ()
        table.add_row(memory.component, memory.gpu, *map(_size, parts), *kv, *once)
    return table


def _number(number: int) -> str:
    return f"{number:,}" if number else ""


def _size(size: int) -> str:
    from dynamoc.compiler.memory import spell_bytes

    return spell_bytes(size) if size else ""


def _range(gpus: tuple[int, ...]) -> str:
    """GPUs of a worker are contiguous: `0–3`."""
    return "–".join(map(str, (gpus[0], gpus[-1]))) if len(gpus) > 1 else "".join(map(str, gpus))
