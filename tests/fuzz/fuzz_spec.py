"""No spec is met with a traceback: throw many at the compiler, and keep what reaches new lines of it.

    python tests/fuzz/fuzz_spec.py [--inputs 200000] [--seed 1] [--output FILE] [--keep FOLDER]

Every fiftieth input is traced. One that reaches new lines, or is answered with codes not seen together, becomes a
seed. Exits 1 if anything raised, pointed outside the file, or took longer than the deadline.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from meeting import ROOT, Outcome, OutsideError, cards, meet, seeds, sites
from mutators import mutated

DEADLINE_S = 20.0
"""Of CPU time; ten times as long where every line is traced."""
MEMORY_BYTES = 3 * 2**30
TRACED_EVERY = 50
PROGRESS_EVERY = 10_000
MAX_SEED_BYTES = 20_000
RIGHT_SHARE = 0.6
"""Inputs made from specs that compile: what is one step away from right meets most rules."""
COMPILER = str((ROOT / "compiler").resolve())
LINKED = str(ROOT / "src/dynamoc/compiler")


class TooSlowError(Exception):
    """An input took longer than the deadline."""


@dataclass
class Tally:
    """What came of the inputs."""

    stages: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, bytes] = field(default_factory=dict)
    raised: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: bytes = b""
    lines: set[tuple[str, int]] = field(default_factory=set)
    answers: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)


def traced(run: Callable[[], Outcome]) -> tuple[Outcome, set[tuple[str, int]]]:
    """The outcome, and the lines of the compiler that were run."""
    lines: set[tuple[str, int]] = set()

    def on_line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return on_line

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_line(frame, event, arg) if frame.f_code.co_filename.startswith((COMPILER, LINKED)) else None

    sys.settrace(on_call)
    try:
        return run(), lines
    finally:
        sys.settrace(None)


def guarded(content: bytes, run: Callable[[], Outcome], tally: Tally, *, trace: bool) -> Outcome | None:
    """Run one input under the deadline and count what came of it; its outcome if that was something new."""
    start, lines = time.process_time(), set[tuple[str, int]]()
    signal.setitimer(signal.ITIMER_PROF, DEADLINE_S * (10 if trace else 1))
    try:
        outcome, lines = traced(run) if trace else (run(), lines)
    except Exception as error:
        kind = "outside" if isinstance(error, OutsideError) else type(error).__name__
        place = traceback.extract_tb(error.__traceback__)[-2 if isinstance(error, TooSlowError) else -1]
        tally.raised[kind] += 1
        name = f"{kind} {Path(place.filename).name}:{place.lineno}"
        if name not in tally.failures:
            tally.failures[name] = content
            print(f"\n== {name}\n{traceback.format_exc()}{content[:2000]!r}\n", flush=True)
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        spent = 0.0 if trace else time.process_time() - start
        if spent > tally.slowest_s:
            tally.slowest_s, tally.slowest = spent, content
    tally.stages[outcome.stage] += 1
    tally.codes.update(outcome.codes)
    answer = (outcome.stage, outcome.codes)
    new = bool(lines - tally.lines) or answer not in tally.answers
    tally.lines |= lines
    tally.answers.add(answer)
    return outcome if new else None


def fuzz(inputs: int, seed: int) -> Tally:
    """So many inputs, the same for the same seed and seeds."""
    choose, corpus, clusters, models, tally = random.Random(seed), seeds(), sites(), cards(), Tally()
    started, first, right = time.monotonic(), len(corpus), seeds(right_only=True)
    for number in range(inputs):
        old = choose.choice(right if choose.random() < RIGHT_SHARE else corpus)
        content = mutated(old, choose.choice(corpus), choose) if number >= first else corpus[number]
        site = choose.choice(clusters)
        new = guarded(
            content,
            lambda c=content, s=site: meet(c, s, models),
            tally,
            trace=number % TRACED_EVERY == 0,  # type: ignore[misc]
        )
        if new is not None and len(content) <= MAX_SEED_BYTES:
            corpus.append(content)
            if new.stage == "compiled":
                right.append(content)
        if (number + 1) % PROGRESS_EVERY == 0:
            rate = (number + 1) / (time.monotonic() - started)
            print(f"{number + 1} inputs, {rate:.0f}/s, {len(corpus)} seeds, {len(tally.lines)} lines, "
                  f"{sum(tally.raised.values())} raised, slowest {tally.slowest_s:.2f} s", flush=True)  # fmt: skip
    return tally


def summary(tally: Tally, inputs: int, seed: int, seconds: float) -> dict[str, Any]:
    return {
        "figure": "fuzz_spec",
        "date": datetime.now(UTC).date().isoformat(),
        "inputs": inputs,
        "seed": seed,
        "exceptions": sum(count for kind, count in tally.raised.items() if kind not in ("outside", "TooSlowError")),
        "spans_outside_the_file": tally.raised["outside"],
        "over_deadline": tally.raised["TooSlowError"],
        "deadline_s": DEADLINE_S,
        "slowest_s": round(tally.slowest_s, 2),
        "stages": dict(sorted(tally.stages.items())),
        "codes_met": len(tally.codes),
        "lines_of_the_compiler_reached": len(tally.lines),
        "distinct_answers": len(tally.answers),
        "seconds": round(seconds),
        "versions": {name: version(name) for name in ("dynamoc", "pydantic", "pyyaml")}
        | {"python": platform.python_version()},
        "command": " ".join(["python", *sys.argv]),
    }


def on_alarm(_: int, __: FrameType | None) -> None:
    raise TooSlowError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for inputs that failed, and for the slowest")
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, on_alarm)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))  # a huge number costs this process only
    started = time.monotonic()
    tally = fuzz(options.inputs, options.seed)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        for name, content in {**tally.failures, "slowest": tally.slowest}.items():
            (options.keep / name.replace(" ", "-").replace(":", "-")).write_bytes(content)
    figure = summary(tally, options.inputs, options.seed, time.monotonic() - started)
    print(json.dumps(figure))
    if options.output is not None:
        options.output.write_text(json.dumps(figure, indent=2) + "\n")
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
