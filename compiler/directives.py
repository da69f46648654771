"""What a Slurm job asks for: one option a line, each with the field it comes from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from dynamoc.compiler.lower import lower
from dynamoc.compiler.node_groups import NodeGroup, node_groups
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.sbatch_options import SWITCHES

EXPORTED = "HOME,LANG,PATH,PYTHON,TMPDIR,DYNAMOC_MODEL_ROOT,DYNAMOC_LOG_LEVEL"
"""The job's environment: what the agents use of the submitting shell's, by name."""
SITE_OPTIONS = ("partition", "account", "qos", "reservation")
DRAIN_MARGIN_S = 20
COLUMN = 40
OF_THE_FIRST = frozenset({"dependency", "export", "job-name", "open-mode", "output", "signal"})
"""Options that the first component of a heterogeneous job says for all."""


class Directive(msgspec.Struct, frozen=True):
    """One option of sbatch. Without a value it is a switch."""

    option: str
    value: str | None
    source: str
    """Where it comes from: a field of the spec, the plan or the cluster file."""
    preferred: bool = False
    """Asked for at first; a job that is refused for it is submitted without."""


def directives(plan: Plan) -> tuple[Directive, ...]:
    """Those of the job, or of the first component of a heterogeneous one."""
    return components(plan)[0]


def components(plan: Plan) -> tuple[tuple[Directive, ...], ...]:
    """Of each kind of node; several make the job a heterogeneous one.

    In a fixed order; those of the site's `directives` replace ours, and `false` leaves a line out.
    """
    groups = node_groups(plan)
    first, *others = (_of_group(plan, group, len(groups) > 1) for group in groups)
    return (first, *(tuple(d for d in other if d.option not in OF_THE_FIRST) for other in others))


def _of_group(plan: Plan, group: NodeGroup, mixed: bool) -> tuple[Directive, ...]:
    site: dict[str, Any] = dict(plan.cluster.site.get("directives", {}))
    found = {d.option: d for d in _ours(plan, group, site, mixed)}
    for option, value in site.items():
        source = f"site: directives.{option}"
        if option in SWITCHES:
            continue
        if value is False:
            found.pop(option, None)
        elif value is True:
            known = found.get(option)
            found[option] = Directive(option, known.value if known is not None else None, source)
        elif option != "time" or plan.graph.time_limit_s is None:
            found[option] = Directive(option, str(value), source)
    return (*found.values(), *_extra(plan))


def spelled(component: Iterable[Directive]) -> list[tuple[str, str]]:
    """Lines as sbatch reads them, and where each comes from."""
    return [(_spell(directive), directive.source) for directive in component]


def _spell(directive: Directive) -> str:
    """In a column of fixed width: a longer line moves no other. sbatch skips what is but preferred."""
    # Unlike a shell, sbatch reads a backslash as an escape within quotes too.
    value = "" if directive.value is None else "=" + shlex.quote(directive.value.replace("\\", "\\\\"))
    sign = "##SBATCH" if directive.preferred else "#SBATCH"
    return f"{sign} --{directive.option}{value}".ljust(COLUMN)


def gpus_of_a_node(plan: Plan) -> int:
    """The most GPUs that a node of the job must give."""
    return max(group.gpus for group in node_groups(plan))


def gpus_of_the_job(plan: Plan) -> int:
    """All that are asked for: every node of a kind gives as many as any of that kind needs."""
    return sum(len(group.nodes) * group.gpus for group in node_groups(plan))


def gres_of(group: NodeGroup) -> str:
    """Its GPUs in Slurm's words, by the site's name for them where it has one."""
    return ":".join(("gpu", *([group.kind.gres] if group.kind.gres else []), str(group.gpus))) if group.gpus else "none"


def drain_s(plan: Plan) -> int:
    """Seconds after which every process has stopped, or was killed."""
    limits = {p.start_order: p.drain_timeout_s for p in lower(plan).processes}
    return math.ceil(sum(limits.values())) + DRAIN_MARGIN_S


def _ours(plan: Plan, group: NodeGroup, site: Mapping[str, Any], mixed: bool) -> Iterator[Directive]:
    graph = plan.graph
    yield Directive("job-name", f"dynamoc-{graph.name}", "spec: name")
    for option in SITE_OPTIONS:
        if option in plan.cluster.site:
            yield Directive(option, plan.cluster.site[option], f"site: {option}")
    nodes, which = str(len(group.nodes)), f" like {group.kind.name}" if mixed else ""
    yield Directive("nodes", nodes, f"plan: nodes{which}")
    yield Directive("ntasks", nodes, f"plan: nodes{which}, an agent each")
    yield Directive("ntasks-per-node", "1", "an agent a node")
    yield from _resources(plan, group, site, mixed)
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


def _extra(plan: Plan) -> Iterator[Directive]:
    """What the site writes of options that we do not know."""
    for index, line in enumerate(plan.cluster.site.get("extra", ())):
        option, equals, value = line.removeprefix("--").partition("=")
        yield Directive(option, value if equals else None, f"site: extra[{index}]")


def _resources(plan: Plan, group: NodeGroup, site: Mapping[str, Any], mixed: bool) -> Iterator[Directive]:
    """Whole nodes by default: the plan's ports, cores and memory are then this job's alone."""
    if group.gpus and site.get("gpus-per-node"):
        yield Directive("gpus-per-node", gres_of(group).removeprefix("gpu:"), "plan: gpus of a node")
    elif group.gpus:
        yield Directive("gres", gres_of(group), "plan: gpus of a node")
    if site.get("exclusive", True):
        yield Directive("exclusive", None, "whole nodes, unless site: directives.exclusive is false")
        yield Directive("mem", "0", "whole nodes")
        if mixed:
            yield Directive("mincpus", str(group.cores), "plan: cpus of a node")
    else:
        yield Directive("cpus-per-task", str(group.cores), "plan: cpus of a node")
    wish = plan.cluster.site.get("segment", "off")
    if wish != "off":
        domain = min(plan.cluster.domain_nodes(plan.cluster.nodes[node]) for node in group.nodes)
        source = f"plan: nodes of an NVLink domain; site: segment is {wish}"
        yield Directive("segment", str(min(len(group.nodes), domain)), source, preferred=wish == "preferred")


def clock(seconds: float) -> str:
    """A time limit in Slurm's words: `4:00:00`, `1-12:00:00`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours}:{minutes:02}:{rest:02}"
