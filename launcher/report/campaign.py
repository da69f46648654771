"""A campaign's folder as results: points by content, failures, what was pruned, and what its GPUs cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dynamoc.compiler.load_plan import LoadPoint
from dynamoc.compiler.rendering import to_yaml
from dynamoc.launcher.analysis.cost import Holding
from dynamoc.launcher.campaign.lines import LinesError
from dynamoc.launcher.campaign.state import REPEAT
from dynamoc.launcher.campaign.store import SETTINGS, CampaignError, Event, Store, StoredDeployment
from dynamoc.launcher.report.points import Failed, Measured, PrunedPoint, ReportError, Results
from dynamoc.launcher.results.row import Row

SIMULATED = "simulated"
DEPLOYMENT = "deployment"
RECORDS = "records.jsonl"
SAID = ("isl", "osl", "concurrency", "rate", "requests", "warmup_requests", "shared_prefix", "seed")
UNSAID = {"shared_prefix": 0.0, "seed": 0}
"""What a spec means where it says nothing."""


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
    except (CampaignError, LinesError) as error:
        raise ReportError(str(error)) from error
    loads = _loads(deployments.values())
    return Results(
        title=settings.name,
        measured=tuple(_measured(store, deployments, loads, rows)),
        failed=tuple(_failed(store, deployments, loads, rows, events)),
        pruned=tuple(
            PrunedPoint(one.rule, one.message, one.notes, _texts({**one.values, **one.load})) for one in pruned
        ),
        limits=settings.sla,
        holdings=None if settings.target == SIMULATED else tuple(_holdings(rows, events, deployments)) or None,
    )


def _loads(deployments: Iterable[StoredDeployment]) -> dict[str, LoadPoint]:
    """By point, of those that were known before anything ran."""
    points = (point for one in deployments for ladder in one.ladders for point in ladder.points)
    return {point.id: point.load for point in points}


def _measured(
    store: Store, deployments: Mapping[str, StoredDeployment], loads: Mapping[str, LoadPoint], rows: Sequence[Row]
) -> Iterator[Measured]:
    points: dict[str, list[Row]] = {}
    for row in rows:
        points.setdefault(row.point, []).append(row)
    for name, repeats in points.items():
        first = repeats[0]
        deployment = deployments.get(first.labels.get(DEPLOYMENT, ""))
        run = store.run_folder(first.run)
        load = loads.get(name)
        yield Measured(
            id=name,
            deployment=first.labels.get(DEPLOYMENT, first.run),
            rows=tuple(repeats),
            values={} if deployment is None else _texts(deployment.values),
            spec=None if deployment is None else _spec_of(deployment, load),
            evidence=run if run.is_dir() else None,
            records=tuple(path for row in repeats if (path := _records_of(store, row)).is_file()),
            shared_prefix=0.0 if load is None else load.shared_prefix,
        )


def _records_of(store: Store, row: Row) -> Path:
    return store.run_folder(row.run) / "results" / f"{row.point}.{row.labels.get(REPEAT, '0')}" / RECORDS


def _failed(
    store: Store,
    deployments: Mapping[str, StoredDeployment],
    loads: Mapping[str, LoadPoint],
    rows: Sequence[Row],
    events: Sequence[Event],
) -> Iterator[Failed]:
    """One for each point of which no repeat has a result."""
    known = {row.point for row in rows}
    for event in events:
        if event.what != "failed" or event.failure is None or event.point in known:
            continue
        known.add(event.point)
        deployment = deployments.get(event.deployment)
        load = loads.get(event.point)
        evidence = store.folder / event.failure.evidence if event.failure.evidence else None
        yield Failed(
            id=event.point,
            reason=f"{event.failure.cause}: {event.failure.reason}",
            values=({} if deployment is None else _texts(deployment.values))
            | ({} if load is None else {"load": load.id}),
            spec=None if deployment is None else _spec_of(deployment, load),
            evidence=evidence,
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


def _spec_of(deployment: StoredDeployment, load: LoadPoint | None) -> str:
    """The spec of the deployment with the load of the point, where a spec can say it."""
    if load is None or load.trace is not None or load.prefixes > 1 or load.isl_stddev or load.osl_stddev:
        return deployment.spec
    said = {"request_rate" if name == "rate" else name: getattr(load, name) for name in SAID}
    written = {name: value for name, value in said.items() if value is not None and value != UNSAID.get(name)}
    return deployment.spec.rstrip("\n") + "\n" + to_yaml({"load": written})


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode() for name, value in values.items()
    }
