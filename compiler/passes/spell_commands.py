"""What each process is started with: words and environment, never a shell string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.dialect import PlacedWorker, dialect
from dynamoc.compiler.graph import WorkerOptions
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.replicas import Key
from dynamoc.runtime.manifest import Launch, Role

STREAMING_STORES = {"GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=0x10000"}
"""A block written to a peer is read by the peer: stores past the writer's cache save reading the line first."""


def spell_commands(plan: Plan, report: Reporter) -> Plan:
    """The agent puts the interpreter before these words and the run folder behind them."""
    del report
    workers: dict[Key, list[Process]] = {}
    for process in plan.processes:
        workers.setdefault((process.component.name, process.replica), []).append(process)
    processes = tuple(
        replace(p, argv=_words(p), env=_environment(p), launch=_launch(plan, p, workers[p.component.name, p.replica]))
        for p in plan.processes
    )
    return replace(plan, processes=processes)


def _launch(plan: Plan, process: Process, parts: Sequence[Process]) -> Launch | None:
    """How the engine is started, where it is a program of its own; `parts` are the processes of its worker."""
    component = process.component
    if component.worker is None:
        return None
    worker = PlacedWorker(
        role=component.role,
        options=component.worker,
        model=plan.graph.model,
        nodes=tuple(part.node for part in parts),
        part=process.part,
        gpus=process.gpus,
        ports=parts[0].ports,
        transport=process.transport,
    )
    launch = dialect(component.worker.engine).command(worker)
    return None if launch is None else replace(launch, python=_interpreter(plan, component.worker))


def _interpreter(plan: Plan, options: WorkerOptions) -> str | None:
    """An image brings its own."""
    pythons: Mapping[str, str] = plan.cluster.site.get("engine_pythons", {})
    return pythons.get(options.engine) if options.image is None else None


def _words(process: Process) -> tuple[str, ...]:
    options = process.component.worker
    program = str(process.component.role)
    if options is not None:
        program = "launch" if dialect(options.engine).capabilities.external else "worker"
    return ("-m", "dynamoc.runtime", program, "--name", process.name)


def _environment(process: Process) -> dict[str, str]:
    """The user's variables win, but for the GPUs, which are the plan's to give."""
    env: dict[str, str] = {}
    options = process.component.worker
    if options is not None and options.device == "cpu":
        # A worker that waits must not spin on cores that its neighbours compute on.
        env |= {"OMP_NUM_THREADS": str(process.cpus), "OMP_WAIT_POLICY": "PASSIVE"}
        if process.component.role is Role.PREFILL and process.transport == "shm":
            env |= STREAMING_STORES
    env |= process.component.env
    if options is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, process.gpus))
    return dict(sorted(env.items()))
