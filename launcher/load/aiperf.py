"""AIPerf as a load tool: a program of its own environment, told by a file, read by what it wrote."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.launcher.load import builtin
from dynamoc.launcher.load.aiperf_config import aiperf_config
from dynamoc.launcher.load.aiperf_hub import hub_environment, lay_out
from dynamoc.launcher.load.client_limit import client_limit
from dynamoc.launcher.load.generator import IsUnwanted, Measured, never
from dynamoc.launcher.load.point import LoadError, LoadPoint, RequestRecord, Target, Trace
from dynamoc.launcher.load.trace import TraceLine, read_trace
from dynamoc.launcher.results.importers.aiperf_records import Records, read_records
from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.runtime import environment

CONFIG = "aiperf.yaml"
LOG = "aiperf.log"
OUT = "aiperf"
REPLAYED = "trace.jsonl"
ASK_S = 60.0
"""For its version, and for its word on a configuration."""
END_S = 10.0
POLL_S = 0.2
SHOWN_LINES = 5
HUB = "hub"


@dataclass(frozen=True, slots=True)
class AIPerf:
    """The tool at `program`."""

    program: Path
    version: str
    name: str = "aiperf"

    def run(
        self, point: LoadPoint, target: Target, folder: Path, deadline_s: float, is_unwanted: IsUnwanted = never
    ) -> Measured:
        """Write its configuration, have it checked, run it in `folder`, and read its records."""
        trace = None if point.trace is None else folder / REPLAYED
        requests = point.requests or 0
        if trace is not None and point.trace is not None:
            requests = _write_trace(point, point.trace, trace)
        lay_out(target.tokenizer, folder / HUB)
        config = folder / CONFIG
        config.write_text(aiperf_config(point, target, trace, requests))
        _ask(self.program, "config", "validate", str(config))
        words = [str(self.program), "profile", "--config", str(config), "--artifact-dir", str(folder / OUT)]
        warmed, left = _warm_up(point, target, folder, deadline_s, is_unwanted)
        started = time.time()
        status = _run([*words, "--ui", "none"], folder, left, is_unwanted)
        found = _records(folder, status)
        records = tuple(_exact(record, point) for record in found.measured)
        complete = status is not None and len(records) == requests
        held = client_limit(point, records, found.late_s, busy=None)
        return Measured(records, started, time.time(), complete, held, requests, found.warmup + warmed)


def generator(program: str | None) -> AIPerf:
    """The tool that is installed; LoadError."""
    path = Path(program or environment.read("DYNAMOC_AIPERF")).expanduser()
    if not path.is_file():
        raise LoadError(f"there is no AIPerf at {path}; `make aiperf` installs it, `site.aiperf` names another")
    return AIPerf(path, _ask(path, "--version").strip())


def _warm_up(
    point: LoadPoint, target: Target, folder: Path, deadline_s: float, is_unwanted: IsUnwanted
) -> tuple[int, float]:
    """Requests before a trace, and the time they leave: AIPerf would warm up by those it measures, and fill caches."""
    if point.trace is None or not point.warmup_requests:
        return 0, deadline_s
    begin = time.perf_counter()
    warmup = msgspec.structs.replace(point, trace=None, rate=None, requests=point.warmup_requests, warmup_requests=0)
    made = len(builtin.GENERATOR.run(warmup, target, folder, deadline_s, is_unwanted).records)
    took = time.perf_counter() - begin
    return made, deadline_s - took


def _ask(program: Path, *words: str) -> str:
    """What it answers at once; LoadError with its words if it refuses."""
    try:
        done = subprocess.run(
            [str(program), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"{program}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise LoadError(f"`aiperf {words[0]}` ended with {done.returncode}: {said}")
    return done.stdout


def _run(words: list[str], folder: Path, deadline_s: float, is_unwanted: IsUnwanted) -> int | None:
    """Its exit status; None where it was not over in time. All that it started ends with it."""
    with (folder / LOG).open("wb") as file:
        process = subprocess.Popen(
            words,
            env=hub_environment(os.environ, folder / HUB),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + deadline_s
        while (rest := deadline - time.monotonic()) > 0 and not is_unwanted():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(POLL_S, rest))
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        return None
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _records(folder: Path, status: int | None) -> Records:
    """What it wrote of every request; LoadError where it wrote nothing and it was not for lack of time."""
    path = folder / OUT / "profile_export.jsonl"
    if not path.is_file():
        if status is None:
            return Records((), (), 0)
        raise LoadError(f"AIPerf ended with {status} and wrote no records: {_said(folder)}; see {folder / LOG}")
    try:
        return read_records(path, cut_off=status is None)
    except ImportFault as fault:
        raise LoadError(str(fault)) from fault


def _said(folder: Path) -> str:
    """The first error of its own log, or the end of what it printed."""
    for path in (folder / OUT / "logs" / "aiperf.log", folder / LOG):
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text(errors="replace").splitlines():
                if " ERROR " in line:
                    return line.partition(" ERROR ")[2].strip(" -")
    lines = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-SHOWN_LINES:]) or "it said nothing"


def _exact(record: RequestRecord, point: LoadPoint) -> RequestRecord:
    """An answer of another length than asked for is an error, as with the built-in tool."""
    varies = point.osl_stddev or point.trace is not None
    if record.error is not None or varies or record.output_tokens == point.osl:
        return record
    return msgspec.structs.replace(record, error=f"{record.output_tokens} tokens, {point.osl} were asked for")


def _write_trace(point: LoadPoint, trace: Trace, path: Path) -> int:
    """The requests of a trace that are replayed, checked, at the times they are to have; how many."""
    count, first = 0, None
    with path.open("wb") as file:
        for line in read_trace(point, trace):
            first = line.timestamp if first is None else first
            at = (line.timestamp - first) / trace.speedup
            moved: TraceLine = msgspec.structs.replace(line, timestamp=at)
            file.write(msgspec.json.encode(moved) + b"\n")
            count += 1
    return count
