"""One machine: every node of the plan is a loopback address with an agent of its own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import msgspec

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.load_plan import gpus_working, load_artifacts
from dynamoc.compiler.lower import lower
from dynamoc.compiler.plan import Plan, Process
from dynamoc.compiler.rendering import render, to_yaml
from dynamoc.compiler.resolved import resolved_spec
from dynamoc.compiler.target import Capabilities
from dynamoc.runtime.manifest import Role, encode_manifest

EXECUTABLE = 0o755
RESOLVED_HEADER = "# Every default and every choice of the plan, written out. Compiled again it gives the same plan.\n"


class Local:
    """Addresses are 127.0.0.1 for node 0, 127.0.0.2 for node 1, and so on."""

    name = "local"
    capabilities = Capabilities(nodes=254)

    def emit(self, plan: Plan) -> Artifacts:
        """The run folder before its run, and a script that runs it."""
        values = _values(plan)
        return (
            Artifact(PurePosixPath("README.md"), render("local/README.md.j2", **values)),
            Artifact(PurePosixPath("inventory.json"), _json(plan.cluster)),
            *load_artifacts(plan, gpus_working(plan)),
            Artifact(PurePosixPath("plan.json"), encode_manifest(lower(plan))),
            Artifact(PurePosixPath("resolved.yaml"), RESOLVED_HEADER + to_yaml(resolved_spec(plan))),
            Artifact(PurePosixPath("up.sh"), render("local/up.sh.j2", **values), EXECUTABLE),
        )


def address(node: int) -> str:
    """The loopback address that stands for a node."""
    return f"127.0.0.{node + 1}"


def _values(plan: Plan) -> dict[str, Any]:
    """What the templates name; they compute nothing."""
    fronts = [p for p in plan.processes if p.component.role is Role.FRONTEND]
    return {
        "name": plan.graph.name,
        "model": plan.graph.model.served_name,
        "nodes": list(range(plan.nodes)),
        "hosts": ",".join(address(node) for node in range(plan.nodes)),
        "endpoints": [f"http://{address(p.node)}:{p.ports['http']}" for p in fronts],
        "processes": [_row(process) for process in plan.processes],
        "transports": [f"{s} -> {t}: {transport}" for (s, t), transport in plan.transports.items()],
    }


def _row(process: Process) -> dict[str, str]:
    return {
        "name": process.name,
        "role": str(process.component.role),
        "host": address(process.node),
        "gpus": " ".join(map(str, process.gpus)) or "–",
        "ports": ", ".join(f"{purpose} {port}" for purpose, port in process.ports.items()),
        "blocks": str(process.kv_blocks or "–"),
    }


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode() + "\n"


TARGET = Local()
