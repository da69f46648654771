"""How far simulated time is from a live run: one small campaign of mockers, measured on this machine and simulated.

    python benchmarks/simulated_time.py [--output FILE]

What is live has a frontend, a network and a machine with other work; the difference is what simulated time leaves out.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from rich.console import Console

from dynamoc.launcher.campaign.opening import open_campaign
from dynamoc.launcher.campaign.running import run_campaign
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.reading import Findings
from dynamoc.launcher.results.row import Row

CAMPAIGN = """dynamoc: 1
campaign: simulated-or-not
base:
  dynamoc: 1
  name: mockers
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, context_length: 1024, kv_blocks: 512}
  components:
    frontend: {role: frontend, port: 18200}
    router: {role: router}
    prefill: {role: prefill}
    decode: {role: decode}
  edges: [frontend -> router -> prefill -> decode]
target: TARGET
axes:
  components.decode.replicas: [1, 2]
loads:
  - {isl: 256, osl: 32, concurrency: [1, 4, 8], warmup_requests: 8, requests: 80}
"""
FIGURES = ("requests_per_s", "ttft_ms", "tpot_ms")


def rows_of(target: str, folder: Path) -> dict[str, Row]:
    """By deployment and load."""
    folder.mkdir()
    file = folder / "campaign.yaml"
    file.write_text(CAMPAIGN.replace("TARGET", target))
    opened = open_campaign(file, Findings())
    store = create_store(folder, opened.campaign, opened.cluster, opened.texts)
    run_campaign(store, Console(stderr=True), lambda _: None)
    return {f"{decoders_of(store, row)}D {row.labels['load']}": row for row in store.results.read()}


def decoders_of(store: Store, row: Row) -> int:
    """Decode workers of the deployment that a row is of."""
    values = {one.id: one.values for one in store.deployments()}[row.labels["deployment"]]
    return int(values["components.decode.replicas"])


def figure(row: Row, name: str) -> float:
    """A rate, or the median of a time."""
    value = getattr(row, name)
    return float(value if isinstance(value, float) else value.p50)


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        live, simulated = (rows_of(target, Path(name) / target) for target in ("local", "simulated"))
    points = []
    print(f"{'point':8} {'figure':16} {'live':>10} {'simulated':>10} {'error':>8}")
    for point, row in sorted(live.items()):
        for field in FIGURES:
            seen, computed = figure(row, field), figure(simulated[point], field)
            error = computed / seen - 1
            points.append(
                {"point": point, "figure": field, "live": seen, "simulated": computed, "error": round(error, 4)}
            )
            print(f"{point:8} {field:16} {seen:10.2f} {computed:10.2f} {error:8.1%}")
    if options.output is not None:
        found = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "points": points}
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
