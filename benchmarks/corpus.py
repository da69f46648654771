"""How long it takes to judge a folder of recipes, and how much memory that needs.

    python benchmarks/corpus.py FOLDER [--points 4000] [--output FILE]

Ours is the command `dynamoc import FOLDER --verdicts OUT`, its start included, on all cores. The folder is judged as it
is, and the figure is scaled to the number of points that the target speaks of. The ceiling is what no importer can
avoid: parsing the same files with PyYAML's C parser, in one process, without expanding any grid.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ROUNDS = 3
MIB = 2**20


def tree(root: int) -> tuple[int, dict[int, float]]:
    """Resident memory of a process and everything below it, and the CPU seconds of each so far."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            facts = (entry / "stat").read_text().rpartition(")")[2].split()
            parent = int(facts[1])
            seconds[int(entry.name)] = (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
            resident[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [root]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return sum(resident.get(p, 0) for p in found), {p: seconds[p] for p in found if p in seconds}


def judge(folder: Path, out: Path) -> tuple[float, int, float]:
    """Seconds of one run, the most memory it held, and the CPU seconds of all its processes."""
    start, peak = time.perf_counter(), 0
    spent: dict[int, float] = {}
    command = [sys.executable, "-m", "dynamoc", "import", str(folder), "--verdicts", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                held, seconds = tree(process.pid)
                peak = max(peak, held)
                spent.update(seconds)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait(600)
        done.set()
        watcher.join()
    if code:
        sys.exit(f"dynamoc import ended with {code}")
    return time.perf_counter() - start, peak, sum(spent.values())


def parse(folder: Path) -> float:
    """Seconds of parsing every file once."""
    start = time.perf_counter()
    for path in sorted(folder.rglob("*.y*ml")):
        list(yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=4000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "verdicts.jsonl"
        runs = [judge(options.folder, out) for _ in range(ROUNDS)]
        points = len(out.read_text().splitlines())
    seconds = statistics.median(run[0] for run in runs)
    shared: dict[str, Any] = {
        "n": points,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": {"python": platform.python_version(), "pyyaml": version("pyyaml"), "pydantic": version("pydantic")},
        "command": "python benchmarks/corpus.py FOLDER",
    }
    figures = [
        {
            "figure": f"{options.points} recipes and grid points imported and proved",
            "ours": round(seconds * options.points / points, 2),
            "ceiling": round(parse(options.folder), 2),
            "peer": None,
            "unit": "s",
            "ratio": None,
            **shared,
        },
        {
            "figure": f"CPU time of all processes for {options.points} recipes and grid points",
            "ours": round(statistics.median(run[2] for run in runs) * options.points / points, 2),
            "ceiling": None,
            "peer": None,
            "unit": "CPU s",
            "ratio": None,
            **shared,
        },
        {
            "figure": "memory of all processes while that is done",
            "ours": round(max(run[1] for run in runs) / MIB),
            "ceiling": None,
            "peer": None,
            "unit": "MiB",
            "ratio": None,
            **shared,
        },
    ]
    text = "".join(json.dumps(figure) + "\n" for figure in figures)
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
