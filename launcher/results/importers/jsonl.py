"""A row out of AIPerf's records alone: of runs that were cut off before their summary, or failed as a whole."""

from __future__ import annotations

import math
from pathlib import Path

from dynamoc.launcher.results.importers.aiperf_records import read_records
from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.importers.reading import row_from
from dynamoc.launcher.results.record import drift_of, figures_of, in_flight_p50
from dynamoc.launcher.results.row import Row

MILLI = 1000.0
HEAD_BYTES = 64


def is_records(path: Path) -> bool:
    """Whether a file begins as AIPerf's records do."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).startswith(b'{"metadata":{"session_num"')
    except OSError as error:
        raise ImportFault(f"{path}: {error.strerror}") from error


def record_row(path: Path) -> Row:
    """What the requests come to; how the load was asked for is not in them."""
    found = read_records(path)
    if not found.measured:
        raise ImportFault(f"{path}: no request after the warm-up")
    records = found.measured
    started = records[0].started
    ended = max(record.started + record.e2e_ms / MILLI for record in records)
    fields = {
        **figures_of(records, started, ended),
        "point": path.parent.name,
        "run": path.parent.name,
        "model": "",
        "tool": "aiperf",
        "tool_version": "",
        "requests": len(records),
        "warmup_requests": found.warmup,
        "e2e_drift": drift_of(records, math.ceil(in_flight_p50(records))),
    }
    return row_from(path, fields)
