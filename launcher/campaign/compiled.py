"""A stored deployment, compiled again where it runs: it must be what was proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dynamoc.compiler.artifacts import Artifacts
from dynamoc.compiler.campaign.identity import deployment_id
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan, emit
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.source import Source, read_source
from dynamoc.compiler.target import Target, load_target
from dynamoc.launcher.campaign.executor import DeploymentError
from dynamoc.launcher.campaign.failures import Cause, Failure
from dynamoc.launcher.campaign.store import StoredDeployment


@dataclass(frozen=True, slots=True)
class Compiled:
    """The plan of a deployment, and what it was made from."""

    source: Source
    plan: Plan
    target: Target
    models: ModelLibrary

    def artifacts(self) -> Artifacts:
        """Those of its target."""
        return emit(self.source, self.plan, self.target, self.models)


def compile_deployment(
    deployment: StoredDeployment, cluster: Cluster, target: str, models: Callable[[Source], ModelLibrary]
) -> Compiled:
    """DeploymentError where it compiles to something else than what was proved, or not at all."""
    loaded = load_target(target)
    try:
        source = read_source(deployment.spec, f"{deployment.id}.yaml")
        library = models(source)
        plan, _ = build_plan(source, cluster, library, loaded)
    except CompileError as error:
        raise DeploymentError(Failure(Cause.CONFIG, f"it does not compile any more: {error}")) from error
    found = deployment_id(plan, target)
    if found != deployment.id:
        reason = f"it compiles to another deployment now, {found}: model files or this version have changed since"
        raise DeploymentError(Failure(Cause.CONFIG, reason))
    return Compiled(source, plan, loaded, library)
