"""How far the memory model is from published figures.

    python benchmarks/gpu_memory.py [--output FILE]

Room for KV of Llama-3.3-70B in NVFP4 on B200 at a memory fraction of 0.9, as published for vLLM 0.9 by tensor parallel
size; our weights, activations and runtime are those of `dynamoc plan`. The table says GB; vLLM logs GiB, and so it is
read here (`ours_GB` has ours in 10^9 bytes, 9 to 11 percent above it). Then the sizes of checkpoints whose publisher
names them, and the counts of parameters of all cards. Nothing is timed but the account of one worker.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from dynamoc.compiler.geometry import Geometry
from dynamoc.compiler.gpu_memory import GIB, Pool, Sharding, Usage, account
from dynamoc.compiler.gpus import known_gpus
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.source import read_source

CARDS = Path(str(files("dynamoc"))) / "specs/models"
PUBLISHED_KV_GB = {1: 113, 2: 269, 4: 578}
CHECKPOINTS = {
    "openai/gpt-oss-120b": 60.8 * GIB,
    "openai/gpt-oss-20b": 12.8 * GIB,
    "MiniMaxAI/MiniMax-M3-MXFP8": 444e9,
    "moonshotai/Kimi-K2.6": 555 * GIB,
}
ROUNDS = 200


def library() -> ModelLibrary:
    """Every card."""
    return ModelLibrary({path.stem.replace("--", "/"): path.read_text() for path in CARDS.glob("*.yaml")})


def card(ref: str) -> Geometry:
    """The geometry of a card."""
    geometry = library().geometry(ref)
    assert geometry is not None
    return geometry


def llama(tp: int) -> Usage:
    """vLLM's defaults on a large GPU: 8,192 tokens a step, 1,024 sequences."""
    sharding = Sharding(tp, tp, tp, tp, tp)
    return Usage(sharding, Pool.TOTAL, 0.9, 8192, 1024, dtype="bfloat16", kv_dtype="bfloat16")


def figures() -> Iterator[dict[str, Any]]:
    """One record a figure."""
    geometry, gpu = card("nvidia/Llama-3.3-70B-Instruct-FP4"), known_gpus()["B200"].memory
    for tp, published in PUBLISHED_KV_GB.items():
        room = account(geometry, llama(tp), gpu).kv * tp
        yield record(f"KV room, TP{tp}", room / GIB, published, "GiB", more={"ours_GB": round(room / 1e9, 1)})
    for ref, size in CHECKPOINTS.items():
        yield record(f"checkpoint of {ref}", card(ref).bytes_on_disk / GIB, size / GIB, "GiB")
    yield worst_count()
    started = time.perf_counter()
    for _ in range(ROUNDS):
        account(geometry, llama(4), gpu)
    each = (time.perf_counter() - started) / ROUNDS
    yield record("account of one worker", each * 1e3, None, "ms", n=ROUNDS)


def worst_count() -> dict[str, Any]:
    """The card whose count of parameters is furthest from the published one."""
    known, errors = library(), {}
    for ref, text in known.texts.items():
        published = read_source(text, ref).data.get("parameters")
        geometry = known.geometry(ref)
        if published is not None and geometry is not None:
            errors[ref] = geometry.parameters / published - 1
    worst = max(errors, key=lambda ref: abs(errors[ref]))
    middle = statistics.median(abs(error) for error in errors.values())
    more = {"worst": worst, "median_percent": round(100 * middle, 4), "cards": len(known.texts)}
    return record("parameters, worst card", 100 * abs(errors[worst]), 1.0, "percent off", n=len(errors), more=more)


def record(
    figure: str, ours: float, published: float | None, unit: str, n: int = 1, more: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The form all benchmarks share; the peer is what was published."""
    return {
        "figure": figure,
        "ours": round(ours, 3),
        "ceiling": None,
        "peer": None if published is None else round(published, 3),
        "unit": unit,
        "ratio": None if published is None else round(ours / published, 4),
        "n": n,
        "hardware": platform.machine(),
        "versions": {"python": platform.python_version(), "dynamoc": version("dynamoc")},
        "command": f"python {Path(sys.argv[0]).name}",
        **(more or {}),
    }


def main() -> None:
    """Print a line a figure, and the records."""
    parser = argparse.ArgumentParser(description="How far the memory model is from published figures.")
    parser.add_argument("--output", type=Path, help="file for the JSON records")
    output = parser.parse_args().output
    records = list(figures())
    for one in records:
        peer = "" if one["peer"] is None else f"published {one['peer']:10.3f}   x {one['ratio']:.3f}"
        print(f"{one['figure']:45} {one['ours']:10.3f} {one['unit']:12} {peer}")
    text = json.dumps(records, indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)


if __name__ == "__main__":
    main()
