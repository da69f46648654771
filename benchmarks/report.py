"""How long a report of 2,000 points takes to make and to open, and how large it is.

    python benchmarks/report.py [--points 2000] [--rounds 3] [--output benchmarks/results/report.json]

Opening is from when headless Chromium is asked for the page until it says that what is in view is drawn: by the wall,
and the CPU time of the page's main thread, which a busy machine does not disturb. Beside it the ceiling, the same
browser with the bare plotting library and one chart of one point.
The rows are made up: figures of a made-up engine, as many deployments as a real campaign has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from dynamoc.compiler.campaign.limits import read_limit
from dynamoc.launcher.analysis.cost import Holding
from dynamoc.launcher.report.page import to_html
from dynamoc.launcher.report.points import Failed, Measured, PrunedPoint, Results
from dynamoc.launcher.report.view import make_view
from dynamoc.launcher.results.row import Row, Spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support/browser"))
import devtools

LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BARE = (
    "<!doctype html><meta charset=utf-8><div id=chart></div><script>{}</script><script>"
    "Plotly.newPlot('chart', [{{x: [1], y: [1]}}]).then(() => {{ document.documentElement.dataset.ready = 'yes'; }});"
    "</script>"
)


def spread(value: float, tail: float) -> Spread:
    return Spread(avg=value, p50=value * 0.95, p90=value * tail, p95=value * tail * 1.2, p99=value * tail * 1.6)


def row(index: int, load: int, prefill: int, decode: int, block: int) -> Row:
    """Decode slows down as it fills, and prefill queues."""
    gpus = 2 * prefill + 4 * decode
    each = load / decode
    tpot = 8 + 0.11 * each + 24 / block + (index * 37 % 11) / 5
    rate = min(load / (0.06 + tpot * 0.256), prefill * 9.5)
    ttft = 60 + 4 * each + 260 * max(0.0, load / (0.06 + tpot * 0.256) / (prefill * 9.5) - 0.9)
    failed = 3 if index % 61 == 0 else 0
    return Row(
        point=f"{index:08x}", run=f"run-{index // len(LOADS)}", model="made-up-70b", tool="builtin", tool_version="1",
        started=1e9 + index, ended=1e9 + index + 60, isl_asked=1024, osl_asked=256, isl=1024.0, osl=256.0,
        concurrency=load, request_rate=None, effective_concurrency=load * 0.97, requests=load * 10,
        completed=load * 10 - failed, failed=failed, duration_s=60.0, requests_per_s=rate,
        output_tokens_per_s=rate * 256, input_tokens_per_s=rate * 1024,
        ttft_ms=spread(ttft, 1.4), tpot_ms=spread(tpot, 1.1), itl_ms=spread(tpot, 1.5),
        e2e_ms=spread(ttft + tpot * 255, 1.2), gpus_allocated=gpus + (2 if index % 97 == 0 else 0), gpus_working=gpus,
        client_limited=index % 151 == 0, warmup_requests=load,
    )  # fmt: skip


def made_up(points: int) -> Results:
    measured, holdings = [], []
    for index in range(points):
        deployment, load = index // len(LOADS), LOADS[index % len(LOADS)]
        prefill, decode, block = deployment % 8 + 1, deployment // 8 % 8 + 1, (16, 32, 64, 128)[deployment // 64 % 4]
        values = {"components.prefill.replicas": f"{prefill}", "components.decode.replicas": f"{decode}"}
        values |= {"defaults.block_size": f"{block}"}
        spec = "".join(f"line_{n}: of a spec that is as long as those of others\n" for n in range(40))
        spec = f"dynamoc: 1\nname: made-up\nprefill: {prefill}\ndecode: {decode}\nblock_size: {block}\n{spec}"
        one = row(index, load, prefill, decode, block)
        measured.append(Measured(one.point, f"deployment-{deployment}", (one,), values, spec))
        holdings.append(Holding(one.gpus_allocated or 0, one.started, one.ended + 20, 60.0))
    failed = tuple(Failed(f"failed-{n}", "CUDA out of memory", {"block_size": f"{n}"}) for n in range(20))
    pruned = tuple(
        PrunedPoint(f"D30{n % 4}", f"worker `decode` needs {n + 9} GPUs and a node has 8", (), {"tp": f"{n}"})
        for n in range(300)
    )
    limits = (read_limit("ttft_ms@p95 <= 500"), read_limit("tpot_ms@avg <= 30"))
    return Results("made-up campaign", tuple(measured), failed, pruned, limits, tuple(holdings))


def make(points: int) -> tuple[bytes, float]:
    begin = time.perf_counter()
    results = made_up(points)
    page = to_html(make_view(results, results.limits, 2.5, Path.cwd()))
    return page, time.perf_counter() - begin


def measure(points: int, rounds: int, keep: Path | None) -> list[dict[str, Any]]:
    from plotly.offline import get_plotlyjs

    content, making = make(points)
    folder = Path(tempfile.mkdtemp())
    try:
        ours, bare = folder / "report.html", folder / "bare.html"
        ours.write_bytes(content)
        bare.write_text(BARE.format(get_plotlyjs()))
        opened = [[devtools.seconds_to_open(page) for _ in range(rounds)] for page in (ours, bare)]
        if keep is not None:
            shutil.copy(ours, keep)
    finally:
        shutil.rmtree(folder)
    library = len(get_plotlyjs().encode())
    return [
        figure("report_open_wall", *(median(wall for wall, _ in page) for page in opened), "s", rounds),
        figure("report_open_cpu", *(median(cpu for _, cpu in page) for page in opened), "s", rounds),
        figure("report_make", making, None, "s", 1),
        figure("report_size", len(content) / 1e6, library / 1e6, "MB", 1),
    ]


def figure(name: str, ours: float, ceiling: float | None, unit: str, n: int) -> dict[str, Any]:
    return {
        "figure": name,
        "ours": round(ours, 4),
        "ceiling": None if ceiling is None else round(ceiling, 4),
        "peer": None,
        "unit": unit,
        "ratio": None if ceiling is None else round(ours / ceiling, 2),
        "n": n,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": {
            "dynamoc": version("dynamoc"),
            "plotly": version("plotly"),
            "browser": devtools.browser_version(),
            "python": platform.python_version(),
        },
        "command": "python benchmarks/report.py --output benchmarks/results/report.json",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="where to put the page")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    figures = measure(options.points, options.rounds, options.keep)
    lines = "".join(json.dumps(one) + "\n" for one in figures)
    print(lines, end="")
    if options.output is not None:
        options.output.write_text(lines)


if __name__ == "__main__":
    main()
