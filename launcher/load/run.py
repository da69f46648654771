"""Makes every load point of a run that has no result yet, and writes what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from dynamoc.launcher.load.generator import IsUnwanted, LoadGenerator, Measured, load_generator, never
from dynamoc.launcher.load.point import LoadPlan, LoadPoint, RequestRecord, Target
from dynamoc.launcher.load.remaining import RESULTS, remaining, result_file
from dynamoc.launcher.results.acceptance import synthetic_acceptance
from dynamoc.launcher.results.record import drift_of, figures_of
from dynamoc.launcher.results.row import Row, encode_row
from dynamoc.launcher.results.verdict import judge
from dynamoc.launcher.scraping import (
    ScrapeError,
    Summary,
    declared_transports,
    idle_workers,
    problems,
    scrape_run,
    summarise,
)
from dynamoc.runtime import environment
from dynamoc.runtime.agent.record import write_atomically
from dynamoc.runtime.manifest import Manifest

RECORDS = "records.jsonl"
SHOWN_ERRORS = 5
POLL_S = 0.5


class ServedRun(Protocol):
    """A run that serves."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """The plan, with the ports that were taken."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The address of every node."""
        ...

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        ...


def run_load(run: ServedRun, plan: LoadPlan, show: Callable[[Row], None], is_unwanted: IsUnwanted = never) -> list[str]:
    """Every remaining point in turn; what went wrong, empty if nothing did. LoadError, ScrapeError, OSError.

    A point that brought nothing, or did not end in time, leaves evidence and no result.
    """
    generator = load_generator(plan.tool, plan.program)
    manifest = run.manifest
    root = environment.read("DYNAMOC_MODEL_ROOT")
    folder = manifest.model_folder(None if root is None else Path(root))
    target = Target(run.urls()[0], manifest.model.served_name, folder)
    faults, completed = [], 0
    for point in remaining(run.folder, plan):
        row, records = _measure(run, generator, point, target, plan, is_unwanted)
        fault = _fault(row, records)
        if fault is None:
            write_atomically(result_file(run.folder, point), encode_row(row))
            completed += row.completed
            show(row)
        else:
            faults.append(f"load point `{point.id}`: {fault}; {_keep_evidence(run.folder, row, records, fault)}")
    # A load that came to nothing says nothing of the way the KV takes.
    return [*faults, *problems(manifest, _summary(run))] if completed else faults


def _measure(
    run: ServedRun, generator: LoadGenerator, point: LoadPoint, target: Target, plan: LoadPlan, is_unwanted: IsUnwanted
) -> tuple[Row, Sequence[RequestRecord]]:
    folder = _empty(run.folder / RESULTS / point.id)
    before = _summary(run)
    measured = generator.run(point, target, folder, point.deadline_s, is_unwanted)
    after = _summary(run)
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in measured.records)
    write_atomically(folder / RECORDS, lines)
    facts = {
        "run": run.folder.name,
        "model": target.model,
        "tool": generator.name,
        "tool_version": generator.version,
        "gpus_allocated": plan.gpus_allocated,
        "gpus_working": len({(p.node, gpu) for p in run.manifest.processes for gpu in p.gpus}),
        "transports": _used(before, after),
        "idle_workers": idle_workers(run.manifest, before, after),
        "transports_declared": declared_transports(run.manifest),
        "synthetic": synthetic_acceptance(run.manifest),
    }
    return row_of(point, measured, facts), measured.records


def row_of(point: LoadPoint, measured: Measured, facts: Mapping[str, object]) -> Row:
    """The row of a point from its records; `facts` are the fields that no record tells."""
    exact = point.trace is None
    return msgspec.convert(
        {
            **facts,
            **figures_of(measured.records, measured.started, measured.ended),
            "point": point.id,
            "isl_asked": point.isl if exact else None,
            "osl_asked": point.osl if exact else None,
            "concurrency": point.concurrency,
            "request_rate": point.rate,
            "requests": measured.requests if point.requests is None else point.requests,
            "warmup_requests": point.warmup_requests if measured.warmup_requests is None else measured.warmup_requests,
            "complete": measured.complete,
            "client_limited": measured.client_limit is not None,
            "client_limit": measured.client_limit,
            "e2e_drift": drift_of(measured.records, point.concurrency or 0) if exact else None,
        },
        Row,
        from_attributes=True,
    )


def _fault(row: Row, records: Sequence[RequestRecord]) -> str | None:
    """Why a point has no result: it came to nothing, or not to its end."""
    if not row.complete:
        return (
            f"not over before its deadline: {len(records)} of {row.requests} requests made, {row.completed} completed"
        )
    if not row.completed:
        return f"none of {row.requests} requests was completed"
    return None if row.output_tokens_per_s > 0 else "no token came out"


def _keep_evidence(folder: Path, row: Row, records: Sequence[RequestRecord], fault: str) -> str:
    """The row, why it is not worth anything, and the first errors; words that say where."""
    path = folder / "evidence" / f"load-{row.point}.txt"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path.with_suffix(".json"), encode_row(row))
    errors = list(dict.fromkeys(record.error for record in records if record.error))[:SHOWN_ERRORS]
    ended = row.ended or time.time()
    text = f"load point {row.point}, {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(ended))}: {fault}\n"
    text += "".join(f"{reason.standing}: {reason.text}\n" for reason in judge(row).reasons)
    text += "".join(f"error: {error}\n" for error in errors)
    write_atomically(path, text.encode())
    first = f"the first error is: {errors[0]}; " if errors else ""
    return f"{first}see {path.relative_to(folder)}"


def _used(before: Summary, after: Summary) -> tuple[str, ...]:
    """Transports that moved blocks in between; the count of a process that was started again begins anew."""
    earlier = {transport: moved.blocks for transport, moved in before.moved.items()}
    return tuple(sorted(t for t, moved in after.moved.items() if moved.blocks != earlier.get(t, 0)))


def _summary(run: ServedRun) -> Summary:
    """What the metrics say. A process that is being started again is waited for, as long as its start may take."""
    manifest = run.manifest
    deadline = time.monotonic() + max(process.ready_timeout_s for process in manifest.processes)
    while True:
        try:
            return summarise(manifest, scrape_run(manifest, run.hosts))
        except ScrapeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _empty(folder: Path) -> Path:
    """A folder for one attempt; what an attempt that was cut short left there is dropped."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
