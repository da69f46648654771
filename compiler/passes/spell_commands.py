"""What each process is started with: words and environment, never a shell string."""

from __future__ import annotations

from dataclasses import replace

from dynamoc.compiler.diagnostics import Reporter
from dynamoc.compiler.plan import Plan, Process


def spell_commands(plan: Plan, report: Reporter) -> Plan:
    """The agent puts the interpreter before these words and the run folder behind them."""
    del report
    processes = tuple(replace(p, argv=_words(p), env=_environment(p)) for p in plan.processes)
    return replace(plan, processes=processes)


def _words(process: Process) -> tuple[str, ...]:
    role = process.component.role
    return ("-m", "dynamoc.runtime", "worker" if role.is_worker else str(role), "--name", process.name)


def _environment(process: Process) -> dict[str, str]:
    """The user's variables win, but for the GPUs, which are the plan's to give."""
    env: dict[str, str] = {}
    options = process.component.worker
    if options is not None and options.device == "cpu":
        # A worker that waits must not spin on cores that its neighbours compute on.
        env |= {"OMP_NUM_THREADS": str(process.cpus), "OMP_WAIT_POLICY": "PASSIVE"}
    env |= process.component.env
    if options is not None:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, process.gpus))
    return dict(sorted(env.items()))
