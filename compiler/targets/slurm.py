"""Slurm: one job whose batch script starts an agent on every node."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.directives import Directive, directives, drain_s, gpus_of_a_node
from dynamoc.compiler.load_plan import load_artifacts
from dynamoc.compiler.lower import lower
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.rendering import render, to_yaml
from dynamoc.compiler.resolved import resolved_spec
from dynamoc.compiler.target import Capabilities
from dynamoc.runtime.manifest import Role, encode_manifest

MAX_NODES = 10_000
EXECUTABLE = 0o755
COLUMN = 32
RESOLVED_HEADER = "# Every default and every choice of the plan, written out. Compiled again it gives the same plan.\n"


class Slurm:
    """Node k of the plan is the k-th host of the job; its address is found when the job runs."""

    name = "slurm"
    capabilities = Capabilities(nodes=MAX_NODES, containers=(), mixed_nodes=False)

    def emit(self, plan: Plan) -> Artifacts:
        """A folder to review, and to submit with `sbatch emitted/job.sbatch` or `dynamoc submit`."""
        values = _values(plan)
        inventory = msgspec.json.format(msgspec.json.encode(plan.cluster, order="sorted"), indent=2).decode() + "\n"
        return (
            Artifact(PurePosixPath("README.md"), render("slurm/README.md.j2", **values)),
            Artifact(PurePosixPath("inventory.json"), inventory),
            Artifact(PurePosixPath("emitted/job.sbatch"), render("slurm/job.sbatch.j2", **values), EXECUTABLE),
            *load_artifacts(plan, plan.nodes * gpus_of_a_node(plan)),
            Artifact(PurePosixPath("plan.json"), encode_manifest(lower(plan))),
            Artifact(PurePosixPath("resolved.yaml"), RESOLVED_HEADER + to_yaml(resolved_spec(plan))),
        )


def _values(plan: Plan) -> dict[str, Any]:
    """What the templates name; they compute nothing."""
    asked = directives(plan)
    gres = any(d.option in ("gres", "gpus-per-node") for d in asked)
    return {
        "name": plan.graph.name,
        "model": plan.graph.model.served_name,
        "directives": [(_spell(directive), directive.source) for directive in asked],
        "nodes": plan.nodes,
        "with_processes": sorted({p.node for p in plan.processes}),
        "gpus": gpus_of_a_node(plan) if gres else 0,
        "drain_s": drain_s(plan),
        "load": plan.graph.load is not None and plan.graph.load.is_made,
        "interface": plan.cluster.site.get("interface"),
        "python": plan.cluster.site.get("python"),
        "endpoints": [(p.node, p.ports["http"]) for p in plan.processes if p.component.role is Role.FRONTEND],
        "processes": [_row(process) for process in plan.processes],
        "transports": [f"{s} -> {t}: {transport}" for (s, t), transport in plan.transports.items()],
    }


def _spell(directive: Directive) -> str:
    """As sbatch reads it, in a column of fixed width: a longer line moves no other."""
    value = "" if directive.value is None else f"={shlex.quote(directive.value)}"
    return f"--{directive.option}{value}".ljust(COLUMN)


def _row(process: Process) -> dict[str, str]:
    return {
        "name": process.name,
        "role": str(process.component.role),
        "node": str(process.node),
        "gpus": " ".join(map(str, process.gpus)) or "–",
        "ports": ", ".join(f"{purpose} {port}" for purpose, port in process.ports.items()),
        "blocks": str(process.kv_blocks or "–"),
    }


TARGET = Slurm()
