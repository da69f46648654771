"""AIPerf's `profile_export.jsonl`: one line a request, warm-up among them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.record import RequestRecord

NS = 1e9
NS_PER_MS = 1e6
WARMUP = "warmup"


class _Metadata(msgspec.Struct):
    request_start_ns: int
    request_end_ns: int
    credit_issued_ns: int | None = None
    benchmark_phase: str = ""
    was_cancelled: bool = False


class _Metric(msgspec.Struct):
    value: float | list[float]


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Line(msgspec.Struct):
    metadata: _Metadata
    metrics: Mapping[str, _Metric] = {}
    error: _Error | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """Requests in the order in which they were sent; `late_s` is how long after their time that was."""

    measured: tuple[RequestRecord, ...]
    late_s: tuple[float, ...]
    warmup: int
    """How many requests were made before."""


def read_records(path: Path, *, cut_off: bool = False) -> Records:
    """Every request of the file; ImportFault. With `cut_off`, the tool was killed: a half last line is left out."""
    lines = sorted(_lines(path, cut_off), key=lambda line: line.metadata.request_start_ns)
    measured = [line for line in lines if line.metadata.benchmark_phase != WARMUP]
    late = (
        (line.metadata.request_start_ns - line.metadata.credit_issued_ns) / NS
        for line in measured
        if line.metadata.credit_issued_ns is not None
    )
    records = tuple(_record(index, line) for index, line in enumerate(measured))
    return Records(records, tuple(late), len(lines) - len(measured))


def _lines(path: Path, cut_off: bool) -> Iterator[_Line]:
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if cut_off and not data.endswith(b"\n"):
                    return
                yield _decoded(data, f"{path}:{number}")
    except OSError as error:
        raise ImportFault(f"{path}: {error.strerror}") from error


def _decoded(data: bytes, place: str) -> _Line:
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise ImportFault(f"{place}: not a record of AIPerf: {error}") from error


_decode = msgspec.json.Decoder(_Line).decode


def _record(index: int, line: _Line) -> RequestRecord:
    start, end = line.metadata.request_start_ns, line.metadata.request_end_ns
    ttft = _number(line, "time_to_first_token")
    e2e = _number(line, "request_latency")
    return RequestRecord(
        index=index,
        started=round(start / NS, 6),
        e2e_ms=round((end - start) / NS_PER_MS if e2e is None else e2e, 3),
        input_tokens=int(_number(line, "input_sequence_length") or 0),
        output_tokens=int(_number(line, "output_sequence_length") or 0),
        ttft_ms=None if ttft is None else round(ttft, 3),
        token_ms=() if ttft is None else tuple(_token_times(line, ttft)),
        error=_error(line),
    )


def _token_times(line: _Line, ttft_ms: float) -> Iterator[float]:
    metric = line.metrics.get("inter_chunk_latency")
    gaps = metric.value if metric is not None and isinstance(metric.value, list) else []
    return (round(time, 3) for time in itertools.accumulate(gaps, initial=ttft_ms))


def _number(line: _Line, name: str) -> float | None:
    metric = line.metrics.get(name)
    return metric.value if metric is not None and not isinstance(metric.value, list) else None


def _error(line: _Line) -> str | None:
    if line.error is not None:
        return ": ".join(part for part in (line.error.type, line.error.message) if part) or "an error without words"
    return "cancelled" if line.metadata.was_cancelled else None
