"""How long it takes to prove and compile a spec.

    python benchmarks/compile.py [--rounds 20] [--output FILE]

Ours is the whole way from text to artifacts, in one process; and the command `dynamoc check`, its start included.
The ceiling is what no compiler of YAML can avoid: parsing the text with PyYAML, or starting the interpreter.
Medians; the text differs from round to round, so nothing can be remembered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dynamoc.compiler.cluster import Cluster, Node
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import build_plan, compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

ROOT = Path(str(files("dynamoc")))
GIB = 2**30
MODEL = "meta-llama/Llama-3.3-70B-Instruct"
POINTS = 4000
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


def prove_once(text: str) -> Measured:
    library, site = models(), cluster()

    def measured(number: int) -> object:
        return build_plan(read_source(f"# {number}\n{text}", "s"), site, library)

    return measured


def parse_once(text: str) -> Measured:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return lambda number: yaml.load(f"# {number}\n{text}", loader)


def run_once(*words: str) -> Measured:
    return lambda _: subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=60)


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


def measure(rounds: int) -> list[dict[str, Any]]:
    shipped = {path: path.read_text() for path in (ROOT / "specs/graphs").glob("*.yaml")}
    path, text = max(shipped.items(), key=lambda item: len(item[1]))
    big = synthetic()
    check = median(run_once("-m", "dynamoc", "check", str(path)), rounds)
    point = median(prove_once(text), rounds * 5)
    return [
        figure("check_command_largest_shipped", check, median(run_once("-c", "pass"), rounds), "s", rounds),
        figure(
            "compile_largest_shipped", median(compile_once(text), rounds), median(parse_once(text), rounds), "s", rounds
        ),
        figure("compile_200_workers", median(compile_once(big), rounds), median(parse_once(big), rounds), "s", rounds),
        figure(
            f"prove_{POINTS}_points", point * POINTS, median(parse_once(text), rounds * 5) * POINTS, "s", rounds * 5
        ),
    ]


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
