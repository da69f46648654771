"""A campaign's folder as results: points by content, failures, what was pruned, and what its GPUs cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamoc.compiler.campaign.points import Point
from dynamoc.compiler.load import DEFAULT_TOOL
from dynamoc.compiler.load_plan import said_of
from dynamoc.compiler.rendering import to_yaml
from dynamoc.launcher.analysis.cost import Holding
from dynamoc.launcher.campaign.lines import LinesError
from dynamoc.launcher.campaign.state import REPEAT, State
from dynamoc.launcher.campaign.store import SETTINGS, CampaignError, Event, Store, StoredDeployment
from dynamoc.launcher.report.points import Failed, Measured, PrunedPoint, ReportError, Results
from dynamoc.launcher.results.row import Row

SIMULATED = "simulated"
DEPLOYMENT = "deployment"
RECORDS = "records.jsonl"


def is_campaign(path: Path) -> bool:
    """Whether it says what it is."""
    return (path / SETTINGS).is_file()


def read_campaign(folder: Path) -> Results:
    """As far as it came; ReportError."""
    store = Store(folder)
    try:
        settings = store.settings()
        deployments = {one.id: one for one in store.deployments()}
        rows, events, pruned = store.results.read(), store.journal.read(), store.pruned()
        state = State(store)
    except (CampaignError, LinesError) as error:
        raise ReportError(str(error)) from error
    points = state.points()
    return Results(
        title=settings.name,
        measured=tuple(_measured(store, deployments, points, rows)),
        failed=tuple(_failed(state, deployments, points, rows)),
        pruned=tuple(
            PrunedPoint(one.rule, one.message, one.notes, _texts({**one.values, **one.load})) for one in pruned
        ),
        limits=settings.sla,
        holdings=None if settings.target == SIMULATED else tuple(_holdings(rows, events, deployments)) or None,
    )


def _measured(
    store: Store, deployments: Mapping[str, StoredDeployment], points: Mapping[str, Point], rows: Sequence[Row]
) -> Iterator[Measured]:
    measured: dict[str, list[Row]] = {}
    for row in rows:
        measured.setdefault(row.point, []).append(row)
    for name, repeats in measured.items():
        first = repeats[0]
        deployment = deployments.get(first.labels.get(DEPLOYMENT, ""))
        run = store.run_folder(first.run)
        point = points.get(name)
        yield Measured(
            id=name,
            deployment=first.labels.get(DEPLOYMENT, first.run),
            rows=tuple(repeats),
            values={} if deployment is None else _texts(deployment.values),
            spec=None if deployment is None else _spec_of(deployment, point),
            evidence=run if run.is_dir() else None,
            records=tuple(path for row in repeats if (path := _records_of(store, row)).is_file()),
            shared_prefix=0.0 if point is None else point.load.shared_prefix,
        )


def _records_of(store: Store, row: Row) -> Path:
    return store.run_folder(row.run) / "results" / f"{row.point}.{row.labels.get(REPEAT, '0')}" / RECORDS


def _failed(
    state: State, deployments: Mapping[str, StoredDeployment], points: Mapping[str, Point], rows: Sequence[Row]
) -> Iterator[Failed]:
    """One for each point of which no repeat has a result."""
    known = {row.point for row in rows}
    for (name, _), failure in state.failures().items():
        if name in known:
            continue
        known.add(name)
        point = points.get(name)
        deployment = None if point is None else deployments[point.deployment]
        yield Failed(
            id=name,
            reason=f"{failure.cause}: {failure.reason}",
            values=({} if deployment is None else _texts(deployment.values))
            | ({} if point is None else {"load": point.load.id}),
            spec=None if deployment is None else _spec_of(deployment, point),
            evidence=state.store.folder / failure.evidence if failure.evidence else None,
        )


def _holdings(
    rows: Sequence[Row], events: Sequence[Event], deployments: Mapping[str, StoredDeployment]
) -> Iterator[Holding]:
    """One for each attempt that ended."""
    ended = {(event.deployment, event.attempt): event for event in events if event.what == "ended"}
    for event in events:
        end = ended.get((event.deployment, event.attempt)) if event.what == "attempt" else None
        gpus = deployments[event.deployment].gpus if event.deployment in deployments else 0
        if end is not None and gpus:
            measured = sum(row.duration_s for row in rows if row.run == event.run)
            yield Holding(gpus, event.wall, event.wall + end.gpu_s / gpus, measured)


def _spec_of(deployment: StoredDeployment, point: Point | None) -> str:
    """The spec of the deployment with the load of the point."""
    if point is None:
        return deployment.spec
    said = said_of(point.load) | ({} if point.tool == DEFAULT_TOOL else {"tool": point.tool})
    return deployment.spec.rstrip("\n") + "\n" + to_yaml({"load": said})


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in values.items()
    }
