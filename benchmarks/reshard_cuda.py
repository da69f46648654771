"""How fast KV blocks get from a worker of one tensor-parallel size to one of another, over NVLink on one host.

    python benchmarks/reshard_cuda.py [--blocks 512] [--rounds 11] [--output FILE]

Llama-3.1-8B's KV: 32 layers, 8 heads of 128, bf16, blocks of 16 tokens, 2 MiB a block over all ranks. All ranks of the
source are on GPU 0, all of the target on GPU 1, each a process of its own that sees its own GPU only (or, where said,
several ranks in one process). Each source rank pushes the heads that a target rank lacks by one kernel per pair of
ranks; blocks are shuffled on both sides. All ranks begin at one instant of one clock; the time is until the last has
seen its completion. Before each push the targets are poisoned; after it every word is compared on the target's side
with what numpy made by transposing, and the sums of all source ranks, added up, are those the targets find. The
ceiling: every source rank copies as many bytes by one plain copy, at the same instant; ours and the ceiling take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 17
LAYERS, HEADS, HEAD_DIM, TOKENS, ITEM = 32, 8, 128, 16, 2
MARK = "@"
"""Begins the lines that are answers: libraries print too."""
LEAD_S = 0.003
CASES = (
    ("TP2 -> TP1", 2, 1, "hnd", 1),
    ("TP2 -> TP1, both ranks in one process", 2, 1, "hnd", 2),
    ("TP1 -> TP2", 1, 2, "hnd", 1),
    ("TP4 -> TP2", 4, 2, "hnd", 4),
    ("TP1 -> TP1, [token][head] to [head][token]", 1, 1, "nhd", 1),
    ("TP2 -> TP1, [token][head] to [head][token]", 2, 1, "nhd", 2),
)
"""Name, ranks of source and target, order of the source's blocks, source ranks a process."""


# ---- the ranks ---------------------------------------------------------------------------------------------


class Ranks:
    """The ranks of one side that this process has, and their pools."""

    def __init__(self, total: int, order: str, numbers: list[int], blocks: int, moved: bool) -> None:
        from cupy.cuda import runtime

        from dynamoc.runtime.kv.cuda.pool import DevicePool
        from dynamoc.runtime.kv.layout import KvLayout
        from dynamoc.runtime.kv.transfer.shards import heads_of
        from dynamoc.runtime.kv.transfer.walk import ORDERS, Placement

        self.places, self.pools, self.wanted = {}, {}, {}
        for number in numbers:
            held = heads_of(HEADS, total, number)
            layout = KvLayout(LAYERS, held.count, HEAD_DIM, TOKENS, "bfloat16", ITEM)
            self.places[number] = Placement(layout, blocks, ORDERS[order], held)
            self.pools[number] = DevicePool(layout, blocks, 0)
            data = laid_out(self.places[number], blocks, moved)
            target = self.pools[number]
            if moved:
                target = self.wanted[number] = DevicePool(layout, blocks, 0)
            runtime.memcpy(target.address, data.ctypes.data, data.size, 1)


def laid_out(place: Any, blocks: int, moved: bool) -> np.ndarray:
    """A rank's share of the random KV, transposed by numpy; `moved`: where the pairs of blocks bring it."""
    from cuda_bench import random_bytes

    shape = (blocks, HEADS, LAYERS, 2, TOKENS, HEAD_DIM * ITEM)
    data = random_bytes(int(np.prod(shape)), SEED).reshape(shape)
    share = data[:, place.held.first : place.held.first + place.held.count]
    have = ["block", "head", "layer", "part", "token"]
    if moved:
        sources, destinations = orders(blocks)
        arrived = np.empty_like(share)
        arrived[destinations] = share[sources]
        share = arrived
    return np.ascontiguousarray(share.transpose([*(have.index(axis) for axis in place.order), 5])).reshape(-1)


def orders(blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Every block once, in one order at the source and in another at the target."""
    return tuple(np.random.default_rng(seed).permutation(blocks) for seed in (1, 2))  # type: ignore[return-value]


def receive(config: dict[str, Any]) -> None:
    """The target's ranks: poison, check, sum."""
    import cuda_bench as bench
    import cupy
    from cupy.cuda import runtime

    from dynamoc.runtime.kv.cuda.copier import Copier
    from dynamoc.runtime.kv.transfer.walk import walk

    ranks = Ranks(config["y"], "hnd", config["ranks"], config["blocks"], moved=True)
    copier = Copier(0)
    _, destinations = orders(config["blocks"])
    say({str(number): pool.handle().hex() for number, pool in ranks.pools.items()})
    for line in sys.stdin:
        if line.strip() == "poison":
            for pool in ranks.pools.values():
                runtime.memset(pool.address, bench.POISON, pool.data_bytes)
            runtime.deviceSynchronize()
            say(None)
        elif line.strip() == "check":
            pairs = [[words(pool) for pool in (ranks.pools[n], ranks.wanted[n])] for n in ranks.pools]
            say(sum(int(cupy.count_nonzero(got != want)) for got, want in pairs))
        elif line.strip() == "sums":
            found = {}
            for number, place in ranks.places.items():
                blocks = bench.runs(
                    ranks.pools[number].address, destinations.astype(np.uint64), place.layout.block_bytes
                )
                summed = copier.sum_slices(walk(place, place), blocks)
                summed.wait(bench.DEADLINE_S)
                found[str(number)] = summed.sums.tolist()
            say(found)


def words(pool: Any) -> Any:
    """A pool as 64-bit words."""
    import cupy

    memory = cupy.cuda.UnownedMemory(pool.address, pool.data_bytes, None)
    return cupy.ndarray(pool.data_bytes // 8, cupy.uint64, cupy.cuda.MemoryPointer(memory, 0))


def send(config: dict[str, Any]) -> None:
    """The source's ranks: push slices, or plain copies, at an instant."""
    import cuda_bench as bench

    from dynamoc.runtime.kv.cuda.copier import Copier, Runs
    from dynamoc.runtime.kv.cuda.pool import MappedPool
    from dynamoc.runtime.kv.layout import KvLayout
    from dynamoc.runtime.kv.transfer.shards import crossings, heads_of
    from dynamoc.runtime.kv.transfer.walk import Placement, walk

    ranks = Ranks(config["x"], config["order"], config["ranks"], config["blocks"], moved=False)
    peers = {int(number): MappedPool(bytes.fromhex(handle), 0) for number, handle in config["handles"].items()}
    sources, destinations = (order.astype(np.uint64) for order in orders(config["blocks"]))
    jobs = []
    for crossing in crossings(HEADS, config["x"], config["y"]):
        if crossing.source in ranks.pools:
            held = heads_of(HEADS, config["y"], crossing.target)
            layout = KvLayout(LAYERS, held.count, HEAD_DIM, TOKENS, "bfloat16", ITEM)
            way = walk(
                ranks.places[crossing.source], Placement(layout, config["blocks"], heads=held), heads=crossing.heads
            )
            sides = (
                Runs(ranks.pools[crossing.source].address, way.source_stride, sources),
                Runs(peers[crossing.target].address, way.target_stride, destinations),
            )
            jobs.append((crossing.target, way, sides, Copier(0), bench.Stream()))
    say(None)
    for line in sys.stdin:
        ask = json.loads(line)
        while time.monotonic() < ask["at"]:
            pass
        if ask["do"] == "copy":
            for _, way, (from_, to), _, stream in jobs:
                stream.copy(to.base, from_.base, way.size * config["blocks"])
            for job in jobs:
                job[-1].wait()
            say([time.monotonic(), []])
            continue
        sums = ask["do"] == "sums"
        copies = [copier.copy_slices(way, *sides, sums=sums) for _, way, sides, copier, _ in jobs]
        for copy in copies:
            copy.wait(bench.DEADLINE_S)
        ended = time.monotonic()
        say([ended, [[job[0], copy.sums.tolist()] for job, copy in zip(jobs, copies, strict=True)] if sums else []])


def say(answer: Any) -> None:
    """One line to the parent."""
    print(MARK + json.dumps(answer), flush=True)


# ---- the parent --------------------------------------------------------------------------------------------


class Child:
    """The ranks of one process."""

    def __init__(self, role: str, gpu: int, config: dict[str, Any]) -> None:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
        command = [sys.executable, __file__, f"--{role}", json.dumps(config)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)

    def tell(self, line: str) -> None:
        """Without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The next one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit(f"a rank's process ended with {self._process.wait(30)}")

    def ask(self, line: str) -> Any:
        """One command, one answer."""
        self.tell(line)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


class Rig:
    """All processes of one case."""

    def __init__(self, x: int, y: int, order: str, together: int, blocks: int) -> None:
        base = {"x": x, "y": y, "order": order, "blocks": blocks}
        self.receivers = [Child("receive", 1, {**base, "ranks": [rank]}) for rank in range(y)]
        handles = {number: handle for child in self.receivers for number, handle in child.answer().items()}
        groups = [list(range(first, min(first + together, x))) for first in range(0, x, together)]
        self.senders = [Child("send", 0, {**base, "ranks": group, "handles": handles}) for group in groups]
        for child in self.senders:
            child.answer()

    def run(self, do: str) -> tuple[float, list[Any]]:
        """Seconds from the common instant until the last rank is done, and their sums."""
        at = time.monotonic() + LEAD_S
        for child in self.senders:
            child.tell(json.dumps({"do": do, "at": at}))
        answers = [child.answer() for child in self.senders]
        return max(ended for ended, _ in answers) - at, [found for _, sums in answers for found in sums]

    def poison(self) -> None:
        """Nothing of an earlier push is left."""
        for child in self.receivers:
            child.ask("poison")

    def check(self, sums: list[Any]) -> None:
        """Every word is right, and so are the sums if there are any."""
        wrong = sum(child.ask("check") for child in self.receivers)
        if wrong:
            raise SystemExit(f"{wrong} wrong words")
        total: dict[int, np.ndarray] = {}
        for target, rows in sums:
            total[target] = total.get(target, np.uint64(0)) + np.array(rows, np.uint64)
        for child in self.receivers if sums else ():
            for target, rows in child.ask("sums").items():
                if not np.array_equal(total[int(target)], np.array(rows, np.uint64)):
                    raise SystemExit(f"the sums of rank {target} are not those of its slices")

    def close(self) -> None:
        """End all processes; writers first."""
        for child in (*self.senders, *self.receivers):
            child.close()


def measure(rig: Rig, rounds: int) -> dict[str, list[float]]:
    """Seconds of pushes with and without sums and of the plain copies."""
    took: dict[str, list[float]] = {"push": [], "sums": [], "copy": []}
    for turn in range(rounds + 1):
        for do, times in took.items():
            rig.poison()
            seconds, sums = rig.run(do)
            if do != "copy":
                rig.check(sums)
            if turn:  # the first round warms up
                times.append(seconds)
    return took


def main() -> None:
    """Measure, print, write `results/reshard_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "reshard_cuda.json")
    options = parser.parse_args()
    import cuda_bench as bench

    total = options.blocks * LAYERS * 2 * HEADS * TOKENS * HEAD_DIM * ITEM
    facts = bench.facts(f"python benchmarks/reshard_cuda.py --blocks {options.blocks} --rounds {options.rounds}")
    made: list[dict[str, Any]] = []
    for name, x, y, order, together in CASES:
        rig = Rig(x, y, order, together, options.blocks)
        took = measure(rig, options.rounds)
        rig.close()
        speed = {what: bench.rate(total, times) for what, times in took.items()}
        print(
            f"{name:45} push {speed['push']:6} with sums {speed['sums']:6} ceiling {speed['copy']:6} GB/s", flush=True
        )
        for what, how in (("push", "push"), ("sums", "push with sums")):
            figure = {
                "figure": f"re-shard over NVLink, {name}, {how}",
                "ours": speed[what],
                "ceiling": speed["copy"],
                "peer": None,
                "target": 250.0,
                "unit": "GB/s",
                "ratio": round(speed[what] / speed["copy"], 3),
                "n": options.rounds,
                "slowest": round(total / max(took[what]) / 1e9, 1),
                "bytes": total,
                **facts,
            }
            made.append(figure)
        bench.save(options.output, made)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--receive"]:
        receive(json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--send"]:
        send(json.loads(sys.argv[2]))
    else:
        main()
