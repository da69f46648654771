"""What a plan is written for: the seam behind which Slurm, Kubernetes and one machine look alike."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol

import msgspec

from dynamoc.compiler.artifacts import Artifacts
from dynamoc.compiler.plan import Plan

TARGETS: Mapping[str, str] = {
    "local": "dynamoc.compiler.targets.local",
    "slurm": "dynamoc.compiler.targets.slurm",
}


class UnknownTargetError(ValueError):
    """There is no such target; the message lists those there are."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a target can do. `nodes` is how many it can hold."""

    nodes: int
    containers: tuple[str, ...] | None = None
    """Container runtimes of a site that it can use; None where it looks at none."""
    picks_nodes: bool = False
    """Its scheduler picks the nodes, by what a job says of each kind of node."""
    starts_mpi: bool = False
    """It starts the ranks of an MPI world over several nodes."""


class Target(Protocol):
    """One per place where plans run."""

    name: str
    capabilities: Capabilities

    def emit(self, plan: Plan) -> Artifacts:
        """The files of a plan. Pure, and cannot fail for a plan that fits the capabilities."""
        ...


def load_target(name: str) -> Target:
    """A registered target; UnknownTargetError otherwise."""
    if name not in TARGETS:
        known = ", ".join(f"`{target}`" for target in TARGETS)
        raise UnknownTargetError(f"there is no target `{name}`; this version has {known}")
    found: Target = importlib.import_module(TARGETS[name]).TARGET
    return found
