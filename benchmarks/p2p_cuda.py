"""How fast KV blocks get from one process's GPU into another's on one host: our kernel over CUDA IPC, NIXL beside it.

    python benchmarks/p2p_cuda.py [--mib 1024] [--rounds 11] [--no-nixl] [--output FILE]

A prefill process on GPU 0 pushes every block of its pool onto a random permutation of the blocks of a decode process on
GPU 1; each process sees only its own GPU (NIXL's see both). Times are the caller's: from the call, with the tables of
addresses still to be made, until the completion is seen. Before each push the destination is poisoned; after it every
byte is compared on the decode side by code that is not ours, and where sums were taken, both sides' are. The ceiling
is one plain copy of all bytes between the same two pools in the same process; ours and the ceiling take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from cuda_run import Owner, in_child, need_gpus, say

SEED = 11
CTAS = (32, 64, 132, 264, 528)
NIXL_SECONDS = 5.0
"""A NIXL case is repeated until it has had this long."""


# ---- the decode process ------------------------------------------------------------------------------------


def own(total: int) -> None:
    """Own the destination: one JSON line in, one out."""
    import cuda_bench as bench
    from cupy.cuda import runtime

    from dynamoc.runtime.kv.cuda.copier import Copier

    pool, expected = bench.device_pool(total), bench.device_pool(total)
    bench.upload(expected, bench.random_bytes(total, SEED))
    copier = Copier(0)
    agents = []
    say({"handle": pool.handle().hex()})
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["do"] == "poison":
            runtime.memset(pool.address, bench.POISON, total)
            runtime.deviceSynchronize()
            say(None)
        elif ask["do"] == "check":
            sources, destinations = bench.shuffled(total, ask["block"])
            say(bench.wrong_words(pool.address, destinations, expected.address, sources, ask["block"]))
        elif ask["do"] == "sums":
            _, destinations = bench.shuffled(total, ask["block"])
            summed = copier.sum(bench.runs(pool.address, destinations, ask["block"]), ask["block"])
            summed.wait(bench.DEADLINE_S)
            say(xxhash.xxh3_64_hexdigest(summed.sums))
        elif ask["do"] == "nixl":
            agents.append(nixl_agent(f"decode-{len(agents)}", pool.address, total, ask["threads"]))
            say({"metadata": agents[-1].get_agent_metadata().hex(), "address": pool.address})


# ---- the prefill process -----------------------------------------------------------------------------------


@contextlib.contextmanager
def pushed(owner: Owner, block_bytes: int) -> Iterator[None]:
    """What happens inside must bring every byte to its place."""
    owner.ask("poison")
    yield
    wrong = owner.ask("check", block=block_bytes)
    if wrong:
        raise SystemExit(f"{wrong} wrong words after a push of {block_bytes} B blocks")


def measure(total: int, rounds: int) -> list[dict[str, Any]]:
    """Our kernel and the plain copy."""
    import cuda_bench as bench

    from dynamoc.runtime.kv.cuda.copier import Copier
    from dynamoc.runtime.kv.cuda.pool import MappedPool

    data = bench.random_bytes(total, SEED)
    pool = bench.device_pool(total)
    bench.upload(pool, data)
    owner = Owner([__file__, "--own", str(total)], "1")
    peer = MappedPool(bytes.fromhex(owner.offer["handle"]), 0)
    copiers = {ctas: Copier(0, ctas) for ctas in CTAS}
    found = [one_size(owner, pool.address, peer.address, data, copiers, block, rounds) for block in bench.BLOCK_BYTES]
    for copier in copiers.values():
        copier.close()
    peer.close()
    owner.close()
    return found


def one_size(
    owner: Owner, mine: int, theirs: int, data: np.ndarray, copiers: dict[int, Any], block: int, rounds: int
) -> dict[str, Any]:
    """Medians of one block size; ends the run if a byte is wrong."""
    import cuda_bench as bench
    from cupy.cuda import runtime

    from dynamoc.runtime.kv.cuda.copier import CTAS as USUAL
    from dynamoc.runtime.kv.transfer.sums import sums_of

    total, copier, plain = data.size, copiers[USUAL], bench.Stream()
    sources, destinations = bench.shuffled(total, block)

    def push(by: Any, *, sums: bool) -> Any:
        return by.copy(bench.runs(mine, sources, block), bench.runs(theirs, destinations, block), block, sums=sums)

    def pull() -> Any:
        return copier.copy(bench.runs(theirs, destinations, block), bench.runs(mine, sources, block), block)

    took: dict[str, list[float]] = {"copy": [], "plain": [], "sums": [], "pull": []}
    for turn in range(rounds + 1):
        with pushed(owner, block):
            took["plain"].append(bench.seconds(lambda: push(copier, sums=False)))
        with pushed(owner, block):
            began = time.perf_counter()
            summed = push(copier, sums=True)
            summed.wait(bench.DEADLINE_S)
            took["sums"].append(time.perf_counter() - began)
        if owner.ask("sums", block=block) != xxhash.xxh3_64_hexdigest(summed.sums):
            raise SystemExit("the sums of both sides differ")
        runtime.memset(mine, bench.POISON, total)
        runtime.deviceSynchronize()
        took["pull"].append(bench.seconds(pull))  # brings home what was pushed: the next push proves it
        began = time.perf_counter()
        plain.copy(theirs, mine, total)
        plain.wait()
        took["copy"].append(time.perf_counter() - began)
        if not turn:  # the first round warms up
            for times in took.values():
                times.clear()
    for row in range(0, sources.size, max(1, sources.size // 16)):
        start = int(sources[row]) * block
        assert tuple(summed.sums[row].tolist()) == sums_of(data[start : start + block]), "numpy sums differ"
    by_ctas = {}
    for ctas, other in copiers.items():
        with pushed(owner, block):
            times = [bench.seconds(lambda by=other: push(by, sums=False)) for _ in range(6)]
        with pushed(owner, block):
            summing = [bench.seconds(lambda by=other: push(by, sums=True)) for _ in range(6)]
        by_ctas[str(ctas)] = [bench.rate(total, times[1:]), bench.rate(total, summing[1:])]
    return {
        "block": block,
        **{what: bench.rate(total, times) for what, times in took.items()},
        "worst": round(total / max(took["plain"]) / 1e9, 1),
        "by_ctas": by_ctas,
    }


# ---- NIXL --------------------------------------------------------------------------------------------------


def nixl_agent(name: str, address: int, total: int, threads: int) -> Any:
    """A NIXL agent over UCX with the pool registered."""
    try:
        from nixl_cu13 import _api as nixl
    except ImportError:
        from nixl_cu12 import _api as nixl

    extra = {"num_threads": threads} if threads else {}
    agent = nixl.nixl_agent(name, nixl.nixl_agent_config(backends=["UCX"], **extra))
    agent.register_memory(np.array([[address, total, 0]], np.uint64), "VRAM")
    return agent


def measure_nixl(total: int) -> list[dict[str, Any]]:
    """WRITE and READ between the same pools; the bytes are checked after each series."""
    import cuda_bench as bench

    pool = bench.device_pool(total)
    bench.upload(pool, bench.random_bytes(total, SEED))
    owner = Owner([__file__, "--own", str(total)], "1,0")
    found = []
    for threads in (0, 8):
        agent = nixl_agent(f"prefill-{threads}", pool.address, total, threads)
        theirs = owner.ask("nixl", threads=threads)
        remote = agent.add_remote_agent(bytes.fromhex(theirs["metadata"]))
        name = remote.decode() if isinstance(remote, bytes) else remote
        for block in bench.BLOCK_BYTES:
            sources, destinations = bench.shuffled(total, block)
            sides = []
            for peer, address, order in (
                ("NIXL_INIT_AGENT", pool.address, sources),
                (name, theirs["address"], destinations),
            ):
                rows = np.zeros((order.size, 3), np.uint64)
                rows[:, 0], rows[:, 1] = order * np.uint64(block) + np.uint64(address), block
                sides.append(agent.prep_xfer_dlist(peer, rows, mem_type="VRAM"))
            for op in ("WRITE", "READ"):
                with pushed(owner, block) if op == "WRITE" else contextlib.nullcontext():
                    times = nixl_times(agent, op, sides, sources.size)
                found.append({"block": block, "op": op, "threads": threads, "gb_s": bench.rate(total, times)})
                print(found[-1], file=sys.stderr, flush=True)
    owner.close()
    return found


def nixl_times(agent: Any, op: str, sides: list[Any], count: int) -> list[float]:
    """Seconds from the post to the completion; descriptor lists are prepared before."""
    times: list[float] = []
    order = np.arange(count, dtype=np.int32)
    began = time.perf_counter()
    while len(times) < 2 or (len(times) < 12 and time.perf_counter() - began < NIXL_SECONDS):
        started = time.perf_counter()
        handle = agent.make_prepped_xfer(op, sides[0], order, sides[1], order, b"")
        status = agent.transfer(handle)
        while status == "PROC" and time.perf_counter() - started < NIXL_SECONDS * 4:
            status = agent.check_xfer_state(handle)
        if status != "DONE":
            raise SystemExit(f"NIXL {op} ended as {status}")
        times.append(time.perf_counter() - started)
        agent.release_xfer_handle(handle)
    return times[1:]


def beside(total: int) -> list[dict[str, Any]] | None:
    """NIXL's rates, from a process of its own; None if it failed."""
    return in_child([__file__, "--nixl", str(total)], "0,1")


# ---- both --------------------------------------------------------------------------------------------------


def figures(rows: list[dict[str, Any]], nixl: list[dict[str, Any]], facts: dict[str, Any], n: int) -> list[dict]:
    """One object a figure."""
    made = []
    for row in rows:
        beside = [found for found in nixl if found["block"] == row["block"]]
        peers = {f"NIXL UCX {found['op']}, num_threads={found['threads']}": found["gb_s"] for found in beside}
        for what, ours in (("push", "plain"), ("push with sums", "sums"), ("pull", "pull")):
            made.append(
                {
                    "figure": f"P to D over NVLink, {row['block']} B blocks shuffled, {what}",
                    "ours": row[ours],
                    "ceiling": row["copy"],
                    "peer": peers or None,
                    "unit": "GB/s",
                    "ratio": round(row[ours] / row["copy"], 3),
                    "n": n,
                    **({"slowest": row["worst"], "by_ctas_plain_and_sums": row["by_ctas"]} if what == "push" else {}),
                    **facts,
                }
            )
    return made


def main() -> None:
    """Measure, print, write `results/p2p_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--no-nixl", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "p2p_cuda.json")
    options = parser.parse_args()
    need_gpus(2)
    import cuda_bench as bench

    facts = bench.facts(f"python benchmarks/p2p_cuda.py --mib {options.mib} --rounds {options.rounds}")
    rows = in_child([__file__, "--measure", str(options.mib << 20), str(options.rounds)], "0")
    if rows is None:
        sys.exit(1)
    bench.save(options.output, figures(rows, [], facts, options.rounds))
    print(f"{'block':>9} {'push':>6} {'slowest':>7} {'sums':>6} {'pull':>6} {'copy':>6}   by CTAs: plain, sums (GB/s)")
    for row in rows:
        numbers = " ".join(f"{row[what]:6}" for what in ("plain", "worst", "sums", "pull", "copy"))
        print(f"{row['block']:9,} {numbers}   {row['by_ctas']}", flush=True)
    if options.no_nixl:
        return
    nixl = beside(options.mib << 20)
    for found in nixl or []:
        print(f"NIXL {found}")
    bench.save(options.output, figures(rows, nixl or [], facts, options.rounds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--own"]:
        own(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    elif sys.argv[1:2] == ["--nixl"]:
        print(json.dumps(measure_nixl(int(sys.argv[2]))))
    else:
        main()
