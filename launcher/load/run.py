"""Makes every load point of a run that has no result yet, and writes what came of it."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from dynamoc.launcher.load.generator import LoadGenerator, Measured, load_generator
from dynamoc.launcher.load.point import LoadPlan, LoadPoint, RequestRecord, Target
from dynamoc.launcher.load.remaining import RESULTS, remaining, result_file
from dynamoc.launcher.results.row import Row, encode_row, spread_of
from dynamoc.launcher.scraping import ScrapeError, Summary, problems, scrape_run, summarise
from dynamoc.runtime import environment
from dynamoc.runtime.agent.record import write_atomically
from dynamoc.runtime.manifest import Manifest

RECORDS = "records.jsonl"
SHOWN_ERRORS = 5
POLL_S = 0.5
MILLI = 1000.0


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


def run_load(run: ServedRun, plan: LoadPlan, show: Callable[[Row], None]) -> list[str]:
    """Every remaining point in turn; what went wrong, empty if nothing did. LoadError, ScrapeError, OSError.

    A point that brought nothing, or did not end in time, leaves evidence and no result.
    """
    generator = load_generator(plan.tool)
    manifest = run.manifest
    root = environment.read("DYNAMOC_MODEL_ROOT")
    folder = manifest.model_folder(None if root is None else Path(root))
    target = Target(run.urls()[0], manifest.model.served_name, folder)
    faults, completed = [], 0
    for point in remaining(run.folder, plan):
        row, records = _measure(run, generator, point, target, plan)
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
    run: ServedRun, generator: LoadGenerator, point: LoadPoint, target: Target, plan: LoadPlan
) -> tuple[Row, Sequence[RequestRecord]]:
    folder = _empty(run.folder / RESULTS / point.id)
    before = _summary(run)
    measured = generator.run(point, target, folder, point.deadline_s)
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
    }
    return row_of(point, measured, facts), measured.records


def row_of(point: LoadPoint, measured: Measured, facts: Mapping[str, object]) -> Row:
    """The row of a point from its records; `facts` are the fields that no record tells."""
    good = [record for record in measured.records if record.error is None]
    duration = _duration_s(measured)
    busy_ms = math.fsum(record.e2e_ms for record in measured.records)
    return msgspec.convert(
        {
            **facts,
            "point": point.id,
            "started": round(measured.started, 3),
            "ended": round(measured.ended, 3),
            "isl_asked": point.isl,
            "osl_asked": point.osl,
            "isl": _mean([record.input_tokens for record in good]),
            "osl": _mean([record.output_tokens for record in good]),
            "concurrency": point.concurrency,
            "request_rate": point.rate,
            "effective_concurrency": round(busy_ms / MILLI / duration, 3),
            "requests": point.requests,
            "completed": len(good),
            "failed": len(measured.records) - len(good),
            "duration_s": round(duration, 6),
            "requests_per_s": round(len(good) / duration, 4),
            "output_tokens_per_s": round(sum(record.output_tokens for record in good) / duration, 3),
            "input_tokens_per_s": round(sum(record.input_tokens for record in good) / duration, 3),
            "ttft_ms": spread_of(record.ttft_ms for record in good if record.ttft_ms is not None),
            "tpot_ms": spread_of(tpot for record in good if (tpot := _tpot_ms(record)) is not None),
            "itl_ms": spread_of(gap for record in good for gap in _gaps(record)),
            "e2e_ms": spread_of(record.e2e_ms for record in good),
            "complete": measured.complete,
            "client_limited": measured.client_limited,
        },
        Row,
        from_attributes=True,
    )


def _duration_s(measured: Measured) -> float:
    """From the first request to the last answer; of the generator's own times where there is no record."""
    begins = [record.started for record in measured.records]
    ends = [record.started + record.e2e_ms / MILLI for record in measured.records]
    return max(max(ends) - min(begins) if begins else measured.ended - measured.started, 1e-6)


def _tpot_ms(record: RequestRecord) -> float | None:
    if record.ttft_ms is None or record.output_tokens < 2:
        return None
    return (record.e2e_ms - record.ttft_ms) / (record.output_tokens - 1)


def _gaps(record: RequestRecord) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(record.token_ms)]


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0


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
    """The row and the first errors; words that say where."""
    path = folder / "evidence" / f"load-{row.point}.txt"
    path.parent.mkdir(exist_ok=True)
    errors = list(dict.fromkeys(record.error for record in records if record.error))[:SHOWN_ERRORS]
    text = f"load point {row.point}, {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(row.ended))}: {fault}\n"
    text += "".join(f"error: {error}\n" for error in errors) + "\n"
    write_atomically(path, text.encode() + encode_row(row))
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
