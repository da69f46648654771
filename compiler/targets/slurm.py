"""Slurm: one job whose batch script starts an agent on every node."""

from __future__ import annotations

from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.directives import components, drain_s, gpus_of_a_node, gpus_of_the_job, gres_of, spelled
from dynamoc.compiler.load_plan import load_artifacts
from dynamoc.compiler.lower import lower
from dynamoc.compiler.mpi_worlds import mpi_worlds
from dynamoc.compiler.node_groups import node_groups
from dynamoc.compiler.node_setup import node_setup, scripts
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.rendering import render, to_yaml
from dynamoc.compiler.resolved import resolved_spec
from dynamoc.compiler.target import Capabilities
from dynamoc.runtime.manifest import Role, encode_manifest

MAX_NODES = 10_000
EMITTED = PurePosixPath("emitted")
EXECUTABLE = 0o755
RESOLVED_HEADER = "# Every default and every choice of the plan, written out. Compiled again it gives the same plan.\n"


class Slurm:
    """Node k of the plan is the k-th host of the job; its address is found when the job runs."""

    name = "slurm"
    capabilities = Capabilities(nodes=MAX_NODES, containers=("apptainer", "pyxis"), picks_nodes=True, starts_mpi=True)

    def emit(self, plan: Plan) -> Artifacts:
        """A folder to review, and to submit with `sbatch emitted/job.sbatch` or `dynamoc submit`."""
        values = _values(plan)
        inventory = msgspec.json.format(msgspec.json.encode(plan.cluster, order="sorted"), indent=2).decode() + "\n"
        return (
            Artifact(PurePosixPath("README.md"), render("slurm/README.md.j2", **values)),
            Artifact(PurePosixPath("inventory.json"), inventory),
            *(Artifact(EMITTED / name, render(f"slurm/{name}.j2", **values), EXECUTABLE) for name in scripts(values)),
            *load_artifacts(plan, gpus_of_the_job(plan)),
            Artifact(PurePosixPath("plan.json"), encode_manifest(lower(plan))),
            Artifact(PurePosixPath("resolved.yaml"), RESOLVED_HEADER + to_yaml(resolved_spec(plan))),
        )


def _values(plan: Plan) -> dict[str, Any]:
    """What the templates name; they compute nothing."""
    asked, *further = components(plan)
    groups = node_groups(plan)
    gres = any(d.option in ("gres", "gpus-per-node") for d in (*asked, *chain.from_iterable(further)))
    return {
        "name": plan.graph.name,
        "model": plan.graph.model.served_name,
        "directives": spelled(asked),
        "further_components": [spelled(component) for component in further],
        "nodes": plan.nodes,
        "with_processes": sorted({p.node for p in plan.processes}),
        "gpus": gpus_of_a_node(plan) if gres else 0,
        "gres": gres_of(groups[0]),
        "groups": [{"nodes": len(group.nodes), "gres": gres_of(group)} for group in groups] if further else [],
        "group_of": [which for node in range(plan.nodes) for which, g in enumerate(groups) if node in g.nodes],
        "shared": all(d.option != "exclusive" for d in asked),
        "worlds": mpi_worlds(plan),
        "mpi": plan.cluster.site.get("mpi", "pmix"),
        "drain_s": drain_s(plan),
        "load": plan.graph.load is not None and plan.graph.load.is_made,
        "interface": plan.cluster.site.get("interface"),
        "endpoints": [(p.node, p.ports["http"]) for p in plan.processes if p.component.role is Role.FRONTEND],
        "processes": [_row(process) for process in plan.processes],
        "transports": [f"{s} -> {t}: {transport}" for (s, t), transport in plan.transports.items()],
        **node_setup(plan),
    }


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
