"""Campaign -> deployments and points: every combination is made, proved, named by its content, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from dynamoc.compiler.campaign.axes import read_axes
from dynamoc.compiler.campaign.combination import Combination, broken_rules, combinations, derive, put
from dynamoc.compiler.campaign.identity import deployment_id, point_id
from dynamoc.compiler.campaign.limits import Limit, LimitError, read_limit
from dynamoc.compiler.campaign.loads import Step, check_loads, ladders_of
from dynamoc.compiler.campaign.points import Campaign, Deployment, Ladder, Point, Pruned, Search
from dynamoc.compiler.campaign.proof import Prover
from dynamoc.compiler.campaign.spec import CampaignSpec
from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Path, Put, Remedy, Reporter, Severity
from dynamoc.compiler.load_plan import load_plan
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.rendering import to_yaml
from dynamoc.compiler.scalars import plain
from dynamoc.compiler.source import Source
from dynamoc.compiler.target import Target
from dynamoc.compiler.units import spell_count

NAME_CHARACTERS = 31
SHOWN = 8
WHERE = "where"
SIMULATED = "simulated"
SIMULATED_ENGINE = "mocker"


class Inputs(msgspec.Struct, frozen=True):
    """Everything an expansion depends on. `gpus` counts what is allocated for a plan."""

    source: Source
    base: Source
    cluster: Cluster
    target: Target
    gpus: Callable[[Plan], int]
    models: Callable[[Source], ModelLibrary]


def expand(spec: CampaignSpec, inputs: Inputs, report: Reporter) -> Campaign:
    """Everything that is known before anything runs; CompileError where the campaign itself is wrong."""
    axes = read_axes(spec, report)
    sla = tuple(_limits(spec, report))
    check_loads(spec, report)
    report.stop_on_errors()
    expansion = _Expansion(spec, inputs, report)
    for made in combinations(axes, report):
        expansion.add(made)
    report.stop_on_errors()
    if not any(deployment.ladders for deployment in expansion.deployments.values()):
        expansion.report_nothing()
    expansion.report_unexpected()
    budget = spec.budget
    return Campaign(
        name=spec.campaign,
        target=spec.target or "local",
        deployments=tuple(d for d in expansion.deployments.values() if d.ladders),
        pruned=tuple(expansion.pruned),
        combinations=expansion.combinations,
        same=expansion.same,
        repeats=spec.repeats or 1,
        sla=sla,
        stops=spec.stop is not None,
        gpu_hours=budget.gpu_hours if budget else None,
        wall_time_s=budget.wall_time if budget else None,
        retries=(budget.retries or 0) if budget else 0,
        at_once=(budget.at_once or 1) if budget else 1,
        warnings=(*report.diagnostics, *expansion.warnings),
    )


def _limits(spec: CampaignSpec, report: Reporter) -> Iterator[Limit]:
    for number, text in enumerate(spec.sla or []):
        try:
            yield read_limit(text)
        except LimitError as error:
            at: Path = ("sla", number)
            remedies = [Remedy((Put(at, error.near),))] if error.near else []
            report.error("D606", f"`{text}` is not a limit", (at, str(error)), remedies=remedies)


class _Expansion:
    """What has been made of the combinations so far."""

    def __init__(self, spec: CampaignSpec, inputs: Inputs, report: Reporter) -> None:
        self._spec = spec
        self._report = report
        self._inputs = inputs
        self._prover = Prover(inputs.source, inputs.base, inputs.cluster, inputs.target, inputs.models)
        self._points: set[str] = set()
        self._unexpected: dict[str, list[str]] = {}
        self.combinations = 0
        self.same = 0
        self.deployments: dict[str, Deployment] = {}
        self.pruned: list[Pruned] = []
        self.warnings: dict[Diagnostic, None] = {}

    def add(self, made: Combination) -> None:
        """One combination: pruned, or one deployment under its loads."""
        self.combinations += 1
        derive(made, self._spec, self._report)
        self._report.stop_on_errors()
        broken = next(broken_rules("where", made, self._spec, self._report), None)
        self._report.stop_on_errors()
        if broken is not None:
            self.pruned.append(Pruned(values=plain(made.values), rule=WHERE, message=broken[0], notes=(broken[1],)))
            return
        for text, sums in broken_rules("expect", made, self._spec, self._report):
            self._unexpected.setdefault(text, []).append(sums)
        data = self._data(made)
        for number, load in enumerate(self._spec.loads):
            ladders = ladders_of(load, ("loads", number), made.variables, self._report)
            self._report.stop_on_errors()
            for steps in ladders:
                self._climb(number, made, data, steps)

    def _climb(self, number: int, made: Combination, data: Any, steps: list[Step]) -> None:
        """One ladder, added to the deployment that it is of."""
        found = self._ladder(number, made, data, steps)
        if found is not None:
            deployment, plan, ladders = found
            known = self.deployments.get(deployment) or self._deployment(deployment, made, data, plan)
            self.deployments[deployment] = msgspec.structs.replace(known, ladders=(*known.ladders, *ladders))

    def _check_simulated(self, plan: Plan) -> None:
        """Only one engine has a simulated time."""
        others = {c.worker.engine for c in plan.graph.components if c.worker is not None} - {SIMULATED_ENGINE}
        if self._spec.target == SIMULATED and others:
            self._report.error(
                "D609",
                f"the engine `{min(others)}` has no simulated time",
                (("target",), f"only `{SIMULATED_ENGINE}` has"),
                remedies=[Remedy((Put(("target",), self._inputs.target.name),))],
            )
            self._report.stop_on_errors()

    def report_unexpected(self) -> None:
        """Combinations that are run although they are not as expected."""
        for text, sums in self._unexpected.items():
            at: Path = ("expect", (self._spec.expect or []).index(text))
            label = f"does not hold of {spell_count(len(sums), 'combination')}"
            more = [f"and {len(sums) - SHOWN} more"] if len(sums) > SHOWN else []
            self._report.warning(
                "D610", "not all combinations are as expected", (at, label), notes=[*sums[:SHOWN], *more]
            )

    def report_nothing(self) -> None:
        """Every combination was pruned."""
        rules: dict[str, int] = {}
        for one in self.pruned:
            rules[f"{one.rule}: {one.message}"] = rules.get(f"{one.rule}: {one.message}", 0) + 1
        notes = [f"{count} x {rule}" for rule, count in sorted(rules.items(), key=lambda item: -item[1])[:5]]
        self._report.error("D607", "no point is left of the campaign", (("loads",), ""), notes=notes, at_key=True)
        self._report.stop_on_errors()

    def _data(self, made: Combination) -> Any:
        data: Any = {key: value for key, value in self._inputs.base.data.items() if key != "load"}
        for path, at in made.writers.items():
            try:
                data = put(data, path, made.fields[".".join(map(str, path))])
            except LookupError as error:
                self._report.error("D608", f"`{'.'.join(map(str, path))}` cannot be set", (at, str(error)))
        self._report.stop_on_errors()
        return data

    def _ladder(
        self, number: int, made: Combination, data: Any, steps: list[Step]
    ) -> tuple[str, Plan, tuple[Ladder, ...]] | None:
        """A ladder of what can run, by the deployment that it is of."""
        points: list[Point] = []
        found: tuple[str, Plan] | None = None
        for step in steps:
            plan = self._proved(number, made, data, step)
            if plan is None:
                continue
            self._check_simulated(plan)
            found = found or (deployment_id(plan, self._inputs.target.name), plan)
            points.append(self._point(found[0], plan))
        if found is None:
            return None
        search = self._spec.loads[number].search
        if search is not None:
            searched = Ladder(search=Search(low=search.min or 1, high=search.max, point=points[0]))
            return (*found, (searched,) if self._unless_known(points) else ())
        fresh = self._unless_known(points)
        return (*found, (Ladder(points=fresh),) if fresh else ())

    def _unless_known(self, points: list[Point]) -> tuple[Point, ...]:
        fresh = tuple({p.id: p for p in points if p.id not in self._points}.values())
        self.same += len(points) - len(fresh)
        self._points |= {point.id for point in fresh}
        return fresh

    def _proved(self, number: int, made: Combination, data: Any, step: Step) -> Plan | None:
        proof = self._prover.prove({**data, "load": step}, made.writers, ("loads", number))
        errors = [d for d in proof.diagnostics if d.severity is Severity.ERROR]
        mistakes = [d for d in errors if d.code < "D3"]
        if mistakes:
            raise CompileError([msgspec.structs.replace(d, notes=(*d.notes, *_with(made))) for d in mistakes])
        self.warnings |= dict.fromkeys(d for d in proof.diagnostics if d.severity is Severity.WARNING)
        if proof.plan is None:
            first = errors[0]
            more = tuple(f"also {d.code}: {d.message}" for d in errors[1:])
            self.pruned.append(
                Pruned(
                    values=plain(made.values),
                    rule=first.code,
                    message=first.message,
                    notes=(*first.notes, *more),
                    load=plain(step),
                )
            )
        return proof.plan

    def _point(self, deployment: str, plan: Plan) -> Point:
        asked = load_plan(plan, self._inputs.gpus(plan))
        assert asked is not None
        load = asked.points[0]
        return Point(id=point_id(deployment, load, asked.tool), deployment=deployment, load=load, tool=asked.tool)

    def _deployment(self, known: str, made: Combination, data: Any, plan: Plan) -> Deployment:
        name = f"{self._spec.campaign[:NAME_CHARACTERS].rstrip('-')}-{known[:8]}"
        text = to_yaml({**data, "name": name})
        return Deployment(known, plain(made.values), text, plan, self._inputs.gpus(plan), ())


def _with(made: Combination) -> list[str]:
    said = ", ".join(f"{name} = {value!r}" for name, value in made.values.items())
    return [f"with {said}"] if said else []
