"""The doctor's process: started with a limit, since a driver may hang; its record as a table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dynamoc.runtime.kv.transfer.measured import Measured, Sample, cache_file, cache_folder


class ExaminationError(RuntimeError):
    """A path is broken, or there was no answer in time."""


def examine(disk: Path | None, mib: int, limit_s: float, *, fresh: bool) -> bytes:
    """The record of this host's paths, as JSON."""
    words = [sys.executable, "-m", "dynamoc.runtime.doctor", "--mib", str(mib), *(["--fresh"] if fresh else [])]
    if disk is not None:
        words += ["--disk", str(disk)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ExaminationError(f"no answer within {limit_s:g} s: a driver or a disk hangs") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ExaminationError(said or f"the examination ended with {done.returncode}")
    return msgspec.json.format(done.stdout)


def table(record: bytes) -> str:
    """For people: a line a way, a column a length of run, GB/s."""
    measured = msgspec.json.decode(record, type=Measured)
    lengths = sorted({sample.run_bytes for sample in measured.samples})
    ways = list(dict.fromkeys((s.source, s.target, s.way) for s in measured.samples))
    rows = [["from", "to", "way", *(_spell(length) for length in lengths)]]
    rows += [[*map(str, way), *(_speed(measured.samples, way, length) for length in lengths)] for way in ways]
    rows += [[*map(str, (m.source, m.target, m.way)), f"- {m.reason}"] for m in measured.missing]
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(3)]
    lines = [_line(row, widths) for row in rows]
    facts = [f"{name}: {value}" for name, value in measured.facts.items() if value]
    kept = cache_file(cache_folder(), measured.host)
    return "\n".join([*facts, "", "GB/s by length of shuffled runs", *lines, "", f"kept in {kept}", ""])


def _speed(samples: Sequence[Sample], way: tuple[str, str, str], length: int) -> str:
    found = [s.bytes_per_s for s in samples if (s.source, s.target, s.way, s.run_bytes) == (*way, length)]
    return f"{found[0] / 1e9:.2f}" if found else ""


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    names = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
    values = row[len(widths) :]
    return f"{names}  {'  '.join(value.rjust(8) for value in values)}".rstrip()


def _spell(length: int) -> str:
    return f"{length >> 20} MiB" if length >= 1 << 20 else f"{length >> 10} KiB"
