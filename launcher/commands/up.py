"""`dynamoc up`: compile a spec for this machine, run it, ask it, keep it serving until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamoc.launcher.reading import CLUSTER, SPEC, Findings, read_inputs

if TYPE_CHECKING:
    from rich.console import Console

    from dynamoc.compiler.artifacts import Artifacts
    from dynamoc.compiler.load_plan import LoadPlan
    from dynamoc.launcher.local import LocalRun

WATCH_S = 0.25
INTERRUPTED = 130


@click.command()
@SPEC
@CLUSTER
@click.option("--ask", "questions", multiple=True, metavar="TEXT", help="Ask this, show figures, and stop.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1), help="Length of an answer.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(path_type=Path), help="For run folders.")
@click.option("--port-base", type=click.IntRange(1024, 65000), help="First port the plan may use on a node.")
@click.option("--load", "with_load", is_flag=True, help="Make the load of the spec, show results, and stop.")
@click.option("--keep", is_flag=True, help="After --ask or --load, keep serving until Ctrl-C.")
def command(
    spec: Path,
    cluster: Path | None,
    questions: tuple[str, ...],
    max_tokens: int,
    runs_dir: Path,
    port_base: int | None,
    with_load: bool,
    keep: bool,
) -> None:
    """Compile SPEC for this machine and run it until Ctrl-C."""
    from rich.console import Console

    from dynamoc.launcher.asking import AskError
    from dynamoc.launcher.load.point import LoadError, read_load
    from dynamoc.launcher.local import LocalRun, RunFailedError
    from dynamoc.launcher.runs import RunFolderError, create_run, manifest_of
    from dynamoc.launcher.scraping import ScrapeError

    artifacts = compile_here(spec, cluster, port_base)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's background jobs start with it ignored
        signal.signal(number, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True)
    try:
        if with_load and not any(str(artifact.path) == "load.json" for artifact in artifacts):
            raise click.UsageError("`--load` needs a spec whose `load` has a `concurrency` or a `request_rate`")
        folder = create_run(runs_dir, artifacts)
        run = LocalRun(folder, manifest_of(folder))
        status = serve(run, console, questions, max_tokens, read_load(folder) if with_load else None, keep=keep)
    except (RunFolderError, RunFailedError, AskError, ScrapeError, LoadError) as error:
        _complain(console, str(error))
        status = 1
    sys.exit(status)


def compile_here(spec: Path, cluster: Path | None, port_base: int | None) -> Artifacts:
    """The artifacts of the local target; what is wrong is shown, and ends the command."""
    from msgspec.structs import replace

    from dynamoc.compiler.pipeline import build_plan, emit
    from dynamoc.compiler.target import load_target

    target = load_target("local")
    findings = Findings()
    with findings.shown():
        inputs = read_inputs(spec, cluster, findings)
        inventory = inputs.cluster if port_base is None else replace(inputs.cluster, port_base=port_base)
        plan, warnings = build_plan(inputs.source, inventory, inputs.models, target)
    findings.show(warnings)
    return emit(inputs.source, plan, target, inputs.models)


def serve(
    run: LocalRun, console: Console, questions: Sequence[str], max_tokens: int, load: LoadPlan | None, *, keep: bool
) -> int:
    """Start, announce, ask, make the load, serve and drain; the exit status of the command."""
    from dynamoc.launcher.board import board
    from dynamoc.launcher.interview import interview

    console.print(f"run folder: {run.folder}")
    served, faults = False, []
    try:
        with board(console) as shown:
            run.start()
            run.wait_ready(lambda: shown.show(run.processes()))
        announce(run, console)
        if questions:
            faults = interview(run, console, questions, max_tokens)
        if load is not None:
            from dynamoc.launcher.load.shown import make_load  # a client, a tokenizer: only where there is a load

            faults += make_load(run, load, console)
        served = True
        if keep or not (questions or load):
            watch(run, console)
    except KeyboardInterrupt:
        console.print("\ndraining; Ctrl-C again to hurry")
    finally:
        with board(console, run.processes()) as shown:
            clean = run.stop(lambda: shown.show(run.processes()))
    for fault in faults:
        _complain(console, fault)
    if not served:
        return INTERRUPTED
    return 0 if clean and not faults else 1


def announce(run: LocalRun, console: Console) -> None:
    """Where it answers, and how to ask."""
    model = run.manifest.model.served_name
    for url in run.urls():
        console.print(f"\n[green]ready[/]  {url}/v1  serves [bold]{model}[/]")
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    words = ["curl", "-s", f"{run.urls()[0]}/v1/chat/completions", "-H", "content-type: application/json", "-d", body]
    console.print(shlex.join(words), markup=False)


def watch(run: LocalRun, console: Console) -> None:
    """Until Ctrl-C, with a line for everything that happens to a process; RunFailedError if the run ends."""
    from dynamoc.launcher.board import Lines

    lines = Lines(console, run.processes())
    console.print("Ctrl-C to stop")
    while True:
        run.check()
        lines.show(run.processes())
        time.sleep(WATCH_S)


def _complain(console: Console, words: str) -> None:
    console.print("error:", style="red", end=" ")
    console.print(words, markup=False)
