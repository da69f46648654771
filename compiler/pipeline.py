"""From text to artifacts: the order of everything the compiler does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from dynamoc.compiler.artifacts import Artifact, Artifacts
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Drop, Remedy, Reporter
from dynamoc.compiler.graph import Allowance, Graph
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.passes.assign_cpus import assign_cpus
from dynamoc.compiler.passes.assign_ports import assign_ports
from dynamoc.compiler.passes.check_attention import check_attention
from dynamoc.compiler.passes.check_budgets import check_budgets
from dynamoc.compiler.passes.check_caches import check_caches
from dynamoc.compiler.passes.check_containers import check_containers
from dynamoc.compiler.passes.check_disaggregation import check_disaggregation
from dynamoc.compiler.passes.check_disk_tiers import check_disk_tiers
from dynamoc.compiler.passes.check_edges import check_edges
from dynamoc.compiler.passes.check_engines import check_engines
from dynamoc.compiler.passes.check_environment import check_environment
from dynamoc.compiler.passes.check_experts import check_experts
from dynamoc.compiler.passes.check_fixed_ports import check_fixed_ports
from dynamoc.compiler.passes.check_flags import check_flags
from dynamoc.compiler.passes.check_gpu_memory import check_gpu_memory
from dynamoc.compiler.passes.check_gpu_overflow import check_gpu_overflow
from dynamoc.compiler.passes.check_gpu_pools import check_gpu_pools
from dynamoc.compiler.passes.check_heads import check_heads
from dynamoc.compiler.passes.check_host_tiers import check_host_tiers
from dynamoc.compiler.passes.check_load import check_load
from dynamoc.compiler.passes.check_memory import check_memory
from dynamoc.compiler.passes.check_model import check_model
from dynamoc.compiler.passes.check_nvlink import check_nvlink
from dynamoc.compiler.passes.check_onboarding import check_onboarding
from dynamoc.compiler.passes.check_pairs import check_pairs
from dynamoc.compiler.passes.check_parts import check_parts
from dynamoc.compiler.passes.check_replication import check_replication
from dynamoc.compiler.passes.check_roles import check_roles
from dynamoc.compiler.passes.check_served_pairs import check_served_pairs
from dynamoc.compiler.passes.check_start import check_start
from dynamoc.compiler.passes.check_target import check_target
from dynamoc.compiler.passes.check_tiers import check_tiers
from dynamoc.compiler.passes.check_time import check_time
from dynamoc.compiler.passes.check_world_size import check_world_size
from dynamoc.compiler.passes.choose_transports import choose_transports
from dynamoc.compiler.passes.set_deadlines import set_deadlines
from dynamoc.compiler.passes.spell_commands import spell_commands
from dynamoc.compiler.place import place
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.read import read_spec, reporter_for
from dynamoc.compiler.resolve import resolve
from dynamoc.compiler.site_models import with_folders
from dynamoc.compiler.source import Source
from dynamoc.compiler.target import Target
from dynamoc.compiler.verify import verify_graph, verify_plan

IR = TypeVar("IR", Graph, Plan)
GraphPass = Callable[[Graph, Reporter], Graph]
PlanPass = Callable[[Plan, Reporter], Plan]

GRAPH_PASSES: tuple[GraphPass, ...] = (
    check_edges,
    check_roles,
    check_disaggregation,
    check_environment,
    check_engines,
    check_flags,
    check_world_size,
    check_model,
    check_attention,
    check_heads,
    check_experts,
    check_pairs,
    check_served_pairs,
    check_parts,
    check_load,
    check_budgets,
    check_caches,
    check_tiers,
)
PLAN_PASSES: tuple[PlanPass, ...] = (
    choose_transports,
    check_gpu_pools,
    assign_ports,
    check_fixed_ports,
    assign_cpus,
    check_nvlink,
    check_replication,
    check_time,
    check_start,
    set_deadlines,
    check_memory,
    check_host_tiers,
    check_disk_tiers,
    check_onboarding,
    check_gpu_memory,
    check_gpu_overflow,
    spell_commands,
)


def compile_spec(source: Source, cluster: Cluster, target: Target, models: ModelLibrary) -> Artifacts:
    """The artifacts of a spec, the spec among them; CompileError with every mistake of the first wrong step."""
    plan, _ = build_plan(source, cluster, models, target)
    return emit(source, plan, target, models)


def emit(
    source: Source, plan: Plan, target: Target, models: ModelLibrary, carried: Mapping[str, str] | None = None
) -> Artifacts:
    """The artifacts of a plan, their lock, and the text they came from.

    `carried` are digests, by path, of what the launcher lays beside them.
    """
    from dynamoc.compiler.lock import lock_artifact, lock_of  # writing YAML takes a while to import; proofs need none

    artifacts = target.emit(plan)
    lock = lock_of(source, plan, models, target.name, artifacts, carried or {})
    return (*artifacts, lock_artifact(lock), Artifact(PurePosixPath("spec.yaml"), source.text))


def build_plan(
    source: Source, cluster: Cluster, models: ModelLibrary, target: Target | None = None
) -> tuple[Plan, tuple[Diagnostic, ...]]:
    """The plan of a spec and the warnings on the way; CompileError with every mistake of the first wrong step."""
    proof = prove(source, cluster, models, target)
    if proof.plan is None:
        raise CompileError(proof.diagnostics)
    return proof.plan, proof.diagnostics


class Proof(msgspec.Struct, frozen=True):
    """What a compilation found: a plan unless there is an error, and what no rule could look at."""

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]
    unchecked: tuple[str, ...]


def prove(
    source: Source,
    cluster: Cluster,
    models: ModelLibrary,
    target: Target | None = None,
    report: Reporter | None = None,
) -> Proof:
    """Compile a spec as far as it goes; never raises for what a user wrote. A campaign brings a reporter of its own."""
    report = reporter_for(source) if report is None else report
    try:
        plan = _plan(source, cluster, models, target, report)
    except CompileError as error:
        return Proof(None, error.diagnostics, tuple(report.unchecked))
    return Proof(plan, tuple(report.diagnostics), plan.unchecked)


def _plan(source: Source, cluster: Cluster, models: ModelLibrary, target: Target | None, report: Reporter) -> Plan:
    spec = read_spec(source, report)
    graph = resolve(spec, report, models, source.traces)
    report.stop_on_errors()
    plan = plan_graph(graph, cluster, report, target)
    _report_unused_waivers(report)
    return plan


def plan_graph(graph: Graph, cluster: Cluster, report: Reporter, target: Target | None = None) -> Plan:
    """Prove a graph and place it; CompileError with every mistake of the first wrong step."""
    graph = run(GRAPH_PASSES, with_folders(graph, cluster), report, verify_graph)
    plan = place(graph, cluster, report)
    if plan is None:
        raise CompileError(report.diagnostics)
    plan = run(PLAN_PASSES, plan, report, verify_plan)
    if target is not None:
        check_target(plan, target, report)
        check_containers(plan, target, report)
    report.stop_on_errors()
    waived = tuple(Allowance(waiver.code, waiver.reason) for waiver in report.waivers if waiver.used)
    return replace(plan, unchecked=tuple(report.unchecked), waived=waived)


def run(passes: Sequence[Callable[[IR, Reporter], IR]], ir: IR, report: Reporter, verify: Callable[[IR], None]) -> IR:
    """All passes in order, each followed by `verify`; then stop if any of them reported an error."""
    for one in passes:
        ir = one(ir, report)
        if not report.failed:
            verify(ir)
    report.stop_on_errors()
    return ir


def _report_unused_waivers(report: Reporter) -> None:
    for waiver in report.unused_waivers():
        report.warning(
            "D207",
            f"`{waiver.code}` is allowed but was not met",
            (waiver.at, ""),
            remedies=[Remedy((Drop(waiver.at),))],
        )
