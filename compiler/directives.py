"""What a Slurm job asks for: one option a line, each with the field it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dynamoc.compiler.lower import lower
from dynamoc.compiler.plan import Plan

EXPORTED = "HOME,LANG,PATH,PYTHON,TMPDIR,DYNAMOC_MODEL_ROOT,DYNAMOC_LOG_LEVEL"
"""The job's environment: what the agents use of the submitting shell's, by name."""
SITE_OPTIONS = ("partition", "account", "qos", "reservation")
DRAIN_MARGIN_S = 20


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of sbatch. Without a value it is a switch."""

    option: str
    value: str | None
    source: str
    """Where it comes from: a field of the spec, the plan or the cluster file."""


def directives(plan: Plan) -> tuple[Directive, ...]:
    """In a fixed order; those of the site's `directives` replace ours, and `false` leaves a line out."""
    site: dict[str, Any] = dict(plan.cluster.site.get("directives", {}))
    found = {d.option: d for d in _ours(plan, site)}
    for option, value in site.items():
        source = f"site: directives.{option}"
        if value is False:
            found.pop(option, None)
        elif value is True:
            known = found.get(option)
            found[option] = Directive(option, known.value if known is not None else None, source)
        elif option != "time" or plan.graph.time_limit_s is None:
            found[option] = Directive(option, str(value), source)
    return tuple(found.values())


def gpus_of_a_node(plan: Plan) -> int:
    """How many GPUs every node of a job must give: jobs of nodes that are alike ask for the most any needs."""
    return max((1 + max(p.gpus) for p in plan.processes if p.gpus), default=0)


def drain_s(plan: Plan) -> int:
    """Seconds after which every process has stopped, or was killed."""
    limits = {p.start_order: p.drain_timeout_s for p in lower(plan).processes}
    return math.ceil(sum(limits.values())) + DRAIN_MARGIN_S


def _ours(plan: Plan, site: Mapping[str, Any]) -> Iterator[Directive]:
    graph = plan.graph
    yield Directive("job-name", f"dynamoc-{graph.name}", "spec: name")
    for option in SITE_OPTIONS:
        if option in plan.cluster.site:
            yield Directive(option, plan.cluster.site[option], f"site: {option}")
    yield Directive("nodes", str(plan.nodes), "plan: nodes")
    yield Directive("ntasks", str(plan.nodes), "plan: nodes, an agent each")
    yield Directive("ntasks-per-node", "1", "an agent a node")
    yield from _resources(plan, site)
    limit = graph.time_limit_s
    if limit is not None:
        yield Directive("time", clock(limit), "spec: time_limit")
    lead = drain_s(plan) if limit is None else max(1, min(drain_s(plan), int(limit / 2)))
    yield Directive("signal", f"B:USR1@{lead}", "plan: drain_timeout_s of all processes, and a margin")
    if not site.get("requeue"):
        yield Directive("no-requeue", None, "a run is not started twice by itself")
    yield Directive("open-mode", "append", "one log a job")
    yield Directive("output", "slurm-%j.log", "in the folder that is submitted from")
    yield Directive("export", EXPORTED, "nothing else of the submitting shell")


def _resources(plan: Plan, site: Mapping[str, Any]) -> Iterator[Directive]:
    """Whole nodes by default: the plan's ports, cores and memory are then this job's alone."""
    gpus = gpus_of_a_node(plan)
    if gpus and site.get("gpus-per-node"):
        yield Directive("gpus-per-node", str(gpus), "plan: gpus of a node")
    elif gpus:
        yield Directive("gres", f"gpu:{gpus}", "plan: gpus of a node")
    if site.get("exclusive", True):
        yield Directive("exclusive", None, "whole nodes, unless site: directives.exclusive is false")
        yield Directive("mem", "0", "whole nodes")
    else:
        cores = (sum(max(1, p.cpus) for p in plan.processes if p.node == node) for node in range(plan.nodes))
        yield Directive("cpus-per-task", str(max(cores)), "plan: cpus of a node")
    if site.get("segment"):
        domain = min(plan.cluster.domain_nodes(node) for node in plan.cluster.nodes)
        yield Directive("segment", str(min(plan.nodes, domain)), "plan: nodes of an NVLink domain")


def clock(seconds: float) -> str:
    """A time limit in Slurm's words: `4:00:00`, `1-12:00:00`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours}:{minutes:02}:{rest:02}"
