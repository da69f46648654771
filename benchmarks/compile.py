"""How long it takes to prove and compile a spec.

    python benchmarks/compile.py [--rounds 20] [--output benchmarks/results/compile.json]

Ours is the whole way from text to artifacts, in one process; and the command `dynamoc check`, its start included.
The ceiling is what no compiler of YAML can avoid: parsing the text with PyYAML, or starting the interpreter.
Medians; the text differs from round to round, so nothing can be remembered. Of the command also the best, and its CPU
time, which a busy machine disturbs less. Memory is the peak of one process; its ceiling is the bare interpreter's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.resources import files
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import compile_spec, prove
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

ROOT = Path(str(files("dynamoc")))
GIB = 2**30
MODEL = "meta-llama/Llama-3.3-70B-Instruct"
POINTS = 4000
CORES = 2
WHAT = ("wall_median", "wall_best", "cpu_best")
Measured = Callable[[int], object]

SYNTHETIC = """
dynamoc: 1
name: synthetic
model: {{ref: {model}}}
defaults: {{engine: mocker, device: cuda, block_size: 64, context_length: 16384}}
components:
  frontend: {{role: frontend, port: 8000, replicas: 4}}
  router: {{role: router}}
{pools}
edges:
{edges}
load: {{isl: 8192, osl: 1024}}
"""

POINT = """
dynamoc: 1
name: point
model: {{ref: {model}}}
defaults: {{engine: sglang, context_length: 20480, args: {{mem-fraction-static: {fraction}}}}}
components:
  frontend: {{role: frontend, port: 8000}}
  router: {{role: router}}
  prefill: {{role: prefill, replicas: {replicas}, args: {{tp-size: {prefill}}}, gpus: 8}}
  decode: {{role: decode, replicas: 2, args: {{tp-size: {decode}, max-running-requests: {sequences}}}, gpus: 8}}
edges: [frontend -> router -> prefill -> decode]
load: {{isl: {isl}, osl: 1024}}
"""


def grid() -> list[str]:
    """Points that all differ; those that ask for 16 ranks on 8 GPUs are wrong."""
    axes = {
        "prefill": (1, 2, 4, 8, 16),
        "decode": (2, 4, 8, 16),
        "replicas": range(1, 9),
        "fraction": (0.8, 0.85, 0.9),
        "isl": (1024, 8192, 16384),
        "sequences": (64, 128, 256),
    }
    points = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return [POINT.format(model=MODEL, **point) for point in islice(points, POINTS)]


def synthetic() -> str:
    """200 workers in 20 pools on 800 GPUs."""
    prefill = "\n".join(f"  prefill-{n}: {{role: prefill, replicas: 12, parallel: {{tp: 2}}}}" for n in range(10))
    decode = "\n".join(f"  decode-{n}: {{role: decode, replicas: 8, parallel: {{tp: 4}}}}" for n in range(10))
    edges = "\n".join(f"  - frontend -> router -> prefill-{n} -> decode-{n}" for n in range(10))
    return SYNTHETIC.format(model=MODEL, pools=f"{prefill}\n{decode}", edges=edges)


def models() -> ModelLibrary:
    return ModelLibrary({p.stem.replace("--", "/"): p.read_text() for p in (ROOT / "specs/models").glob("*.yaml")})


def cluster() -> Cluster:
    return Cluster("bench", tuple(Node(f"n{n}", 192, 2048 * GIB, 8, "H200", 141 * GIB) for n in range(100)))


def median(measured: Measured, rounds: int) -> float:
    """Seconds of one call; the first is not counted."""
    seconds = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        measured(number)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def compile_once(text: str) -> Measured:
    def measured(number: int) -> object:
        return compile_spec(read_source(f"# {number}\n{text}", "s"), cluster(), load_target("local"), models())

    return measured


def parse_once(text: str) -> Measured:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return lambda number: yaml.load(f"# {number}\n{text}", loader)


def peak_kib() -> int:
    """Most memory this process ever had; what it was forked from does not count."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit("this system does not say what memory a process had")
    return int(found[1])


def prove_points(texts: list[str]) -> tuple[int, int]:
    """How many are right, and the peak memory of the process that found out, bytes."""
    library, site = models(), cluster()
    right = sum(prove(read_source(text, "s"), site, library).plan is not None for text in texts)
    return right, peak_kib() * 1024


def prove_grid(texts: list[str]) -> tuple[float, int]:
    """Seconds for all points on two cores, processes started anew; peak memory of both together, bytes."""
    start = time.perf_counter()
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(prove_points, [texts[core::CORES] for core in range(CORES)]))
    seconds = time.perf_counter() - start
    if not 0 < sum(right for right, _ in found) < len(texts):
        raise SystemExit("a grid that is all right or all wrong measures nothing")
    return seconds, sum(memory for _, memory in found)


def spent(rounds: int, *words: str) -> tuple[float, float, float]:
    """Of a command: median and best wall time, best CPU time, seconds."""
    walls, cpus = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        walls.append(time.perf_counter() - start)
        cpus.append(used.ru_utime + used.ru_stime)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{words} ended with {child.returncode}")
    return statistics.median(walls), min(walls), min(cpus)


def figure(name: str, ours: float, ceiling: float, unit: str, n: int) -> dict[str, Any]:
    return {
        "figure": name,
        "ours": round(ours, 5),
        "ceiling": round(ceiling, 5),
        "peer": None,
        "unit": unit,
        "ratio": round(ours / ceiling, 2),
        "n": n,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("dynamoc", "pyyaml", "pydantic")}
        | {"python": platform.python_version()},
        "command": " ".join(["python", *sys.argv]),
    }


def measure(n: int) -> list[dict[str, Any]]:
    path = ROOT / "specs/graphs/quickstart.yaml"
    text, big, points = path.read_text(), synthetic(), grid()
    check, bare = spent(n, "-m", "dynamoc", "check", str(path)), spent(n, "-c", "pass")
    seconds, memory = prove_grid(points)
    parsing = sum(median(parse_once(point), 3) for point in points[:: POINTS // 20]) / 20 * POINTS / CORES
    return [
        *(figure(f"check_command_{what}", *both, "s", n) for what, *both in zip(WHAT, check, bare, strict=True)),
        figure("compile_shipped", median(compile_once(text), n), median(parse_once(text), n), "s", n),
        figure("compile_200_workers", median(compile_once(big), n), median(parse_once(big), n), "s", n),
        figure(f"prove_{POINTS}_points_on_{CORES}_cores", seconds, parsing, "s", 1),
        figure(f"prove_{POINTS}_points_memory_of_both", memory / 2**20, CORES * bare_mib(), "MiB", 1),
    ]


def bare_mib() -> float:
    """What an interpreter needs that does nothing."""
    words = [sys.executable, "-c", "print(open('/proc/self/status').read())"]
    status = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    figures = measure(options.rounds)
    print(f"{'figure':32}{'ours':>10}{'ceiling':>10}  unit")
    for one in figures:
        print(f"{one['figure']:32}{one['ours']:>10.4f}{one['ceiling']:>10.4f}  {one['unit']}")
    lines = "".join(json.dumps(one) + "\n" for one in figures)
    print(lines, end="")
    if options.output is not None:
        options.output.write_text(lines)


if __name__ == "__main__":
    main()
