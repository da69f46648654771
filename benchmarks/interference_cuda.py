"""How much longer a decode step takes while KV blocks are copied at full rate beside it, path by path.

    python benchmarks/interference_cuda.py [--steps 60] [--output FILE]

The step is decode-like: all weights of Llama-3.1-8B's layers (14 GB, random, bf16) are multiplied with 64 rows, as one
CUDA graph on a stream of high priority. It is bound by memory, so it is what a copy disturbs most. A thread copies
1 GiB of shuffled blocks over and over, 64 KiB each where nothing else is said; steps are timed by events of the device.
Alone and beside take turns. With a second GPU, that one pushes blocks over NVLink into the memory of the first.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import cuda_bench as bench
import torch
from cupy.cuda import runtime
from offload_cuda import Rig

from dynamoc.runtime.kv.cuda.copier import Copier
from dynamoc.runtime.kv.cuda.copy_engine import EngineCopier
from dynamoc.runtime.kv.cuda.staged import StagedCopier

LAYERS, ROWS = 32, 64
SHAPES = ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096))
BLOCK = 64 << 10
TOTAL = 1 << 30
BOTH = ("offload", "onboard")
LONG_BLOCK = 2 << 20
STAGED = ((32, 32), (8, 32), (32, 128))
"""CTAs, MiB a piece."""
IN_SERVICE = ("batch", "batch of 2 MiB blocks")
"""What KV tiers take while the engine computes (`planner.TAKES_PROCESSORS`): these may cost a decode step 5 %."""
NVLINK_CTAS = (32, 64, 264)


class Step:
    """The decode-like step."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream(priority=-5)
        weights = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(LAYERS) for shape in SHAPES]
        self.bytes = sum(weight.numel() * 2 for weight in weights)
        rows = {width: torch.randn(ROWS, width, device="cuda", dtype=torch.bfloat16) for width, _ in SHAPES}
        with torch.cuda.stream(self.stream):
            for weight in weights:
                rows[weight.shape[0]] @ weight
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self.stream):
            for weight in weights:
                rows[weight.shape[0]] @ weight
        self._weights = weights

    def median_ms(self, steps: int) -> float:
        """Of so many steps, one after another."""
        with torch.cuda.stream(self.stream):
            events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(steps)]
            for begin, end in events:
                begin.record(self.stream)
                self._graph.replay()
                end.record(self.stream)
        self.stream.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events)


class Beside:
    """Copies over and over in a thread while it is entered."""

    def __init__(self, copy: Callable[[], None], size: int) -> None:
        self._copy, self._size = copy, size
        self._stop, self._done = threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        time.sleep(0.03)
        self._began, self._before = time.perf_counter(), self._done
        return self

    def __exit__(self, *failure: object) -> None:
        self.rate = round((self._done - self._before) * self._size / (time.perf_counter() - self._began) / 1e9, 1)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._copy()
            self._done += 1


def paths(rig: Rig) -> list[tuple[str, Callable[[], None], int]]:
    """Name, one copy, bytes."""
    orders, long = bench.shuffled(TOTAL, BLOCK), bench.shuffled(TOTAL, LONG_BLOCK)
    made: list[tuple[str, Callable[[], None], int]] = []
    for ways in (("offload",), ("onboard",), BOTH):
        name, size = "both" if len(ways) > 1 else ways[0], TOTAL * len(ways)
        made.append((f"{name}, one plain copy", lambda ways=ways: rig.plain(ways), size))
        made.append((f"{name}, batch", lambda ways=ways: rig.batched(ways, BLOCK, orders), size))
        made.append((f"{name}, batch of 2 MiB blocks", lambda ways=ways: rig.batched(ways, LONG_BLOCK, long), size))
        for ctas, mib in STAGED:
            copiers = {way: StagedCopier(0, ctas=ctas, piece_bytes=mib << 20) for way in ways}

            def staged(ways: tuple[str, ...] = ways, copiers: dict[str, StagedCopier] = copiers) -> None:
                rig.staged_copiers = copiers
                rig.staged(ways, BLOCK, orders)

            made.append((f"{name}, staged, {ctas} CTAs, pieces of {mib} MiB", staged, size))
        made += [
            (f"{name}, kernel, {ctas} CTAs", lambda w=ways, c=ctas: rig.kernel(w, BLOCK, orders, c), size)
            for ctas in (8, 32)
        ]
    if runtime.getDeviceCount() > 1:
        made += over_nvlink(rig, {BLOCK: orders, LONG_BLOCK: long})
    return made


def over_nvlink(rig: Rig, orders: dict[int, Any]) -> list[tuple[str, Callable[[], None], int]]:
    """Pushes out of memory of the second GPU; `orders` of blocks, by their size."""
    runtime.setDevice(1)
    theirs = runtime.malloc(TOTAL)
    runtime.deviceEnablePeerAccess(0)
    runtime.setDevice(0)
    addresses = (theirs, rig.device["onboard"].address)

    def push(copier: Copier, block: int) -> None:
        sides = [bench.runs(address, order, block) for address, order in zip(addresses, orders[block], strict=True)]
        copier.copy(*sides, block, sums=True).wait(bench.DEADLINE_S)

    ways = [(f"{ctas} CTAs", Copier(1, ctas), BLOCK) for ctas in NVLINK_CTAS]
    ways += [("2 MiB", Copier(1), LONG_BLOCK), ("2 MiB, beside a copy engine", EngineCopier(1), LONG_BLOCK)]
    return [
        (f"push from a peer over NVLink, {name}", lambda c=copier, b=block: push(c, b), TOTAL)
        for name, copier, block in ways
    ]


def main() -> None:
    """Measure, print, write `results/interference_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "interference_cuda.json")
    options = parser.parse_args()
    facts = bench.facts(f"python benchmarks/interference_cuda.py --steps {options.steps}")
    step, rig = Step(), Rig(TOTAL)
    step.median_ms(options.steps)
    made: list[dict[str, Any]] = []
    for name, copy, size in paths(rig):
        copy()
        alone = step.median_ms(options.steps)
        with Beside(copy, size) as beside:
            disturbed = step.median_ms(options.steps)
        growth = disturbed / alone - 1
        print(
            f"{name:50} step {alone:.3f} -> {disturbed:.3f} ms {growth:+7.1%}, copies {beside.rate:6} GB/s", flush=True
        )
        made.append(
            {
                "figure": f"decode step beside: {name}",
                "ours": round(disturbed, 4),
                "ceiling": round(alone, 4),
                "peer": None,
                "target": round(1.05 * alone, 4) if name.partition(", ")[2] in IN_SERVICE else None,
                "unit": "ms a step",
                "ratio": round(1 + growth, 4),
                "n": options.steps,
                "copied_gb_s": beside.rate,
                "step_gb_s": round(step.bytes / alone / 1e6),
                **facts,
            }
        )
        bench.save(options.output, made)


if __name__ == "__main__":
    main()
