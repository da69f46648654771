"""How fast KV blocks get from one process's GPU into another's through a transport of ours, from call to completion.

    python benchmarks/transport_cuda.py [--transport nvlink|nixl] [--mib 1024] [--rounds 11] [--no-nixl] [--output FILE]

As a prefill worker does, a process on GPU 0 connects to the pool that a decode process offers on GPU 1, probe and all,
and writes every block of its own onto a random permutation of the other's: random bytes, sums taken on the way, or,
beside it, not. Each process sees only its own GPU. Times run from `write` until the completion is known on the event
loop. Before each write the destination is poisoned; after it every byte is compared on the decode side by code that is
not ours, and the transport verifies what it sums. The ceiling is one plain copy of all bytes between the same two pools
in the same process; ours and the ceiling take turns. NIXL's UCX backend moves the same blocks in the same run.

`nixl` always sums, and has no target of its own: what it is compared with is NIXL itself, of whose writes one a block
is here one a slot.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import p2p_cuda
import uvloop
from cuda_run import Owner, against, in_child, need_gpus, say

from dynamoc.runtime.kv.transfer.pairs import BlockPairs
from dynamoc.runtime.transports.nixl import NixlTransport
from dynamoc.runtime.transports.nvlink import NvlinkTransport
from dynamoc.runtime.transports.protocol import Outcome, Transport

SEED = 11
KEY = b"benchmark" * 4
LIMIT_S = 30.0
HOST = "127.0.0.1"
TARGETS: dict[str, dict[str, float | None]] = {
    "nvlink": {"push": 350.0, "push with sums": 320.0},
    "nixl": {"write with sums": None},
}
"""GB/s, of each transport's ways."""


def made(name: str, what: str) -> Transport:
    """A transport of that name, which moves in that way."""
    return NixlTransport(KEY) if name == "nixl" else NvlinkTransport(KEY, sums="sums" in what)


# ---- the decode process ------------------------------------------------------------------------------------


async def own(name: str, total: int) -> None:
    """Own the destination, one pool at a time: one JSON line in, one out."""
    import json

    import cuda_bench as bench
    from cupy.cuda import runtime

    from dynamoc.runtime.kv.cuda.pool import DevicePool

    expected = bench.device_pool(total)
    bench.upload(expected, bench.random_bytes(total, SEED))
    say(None)
    pool, transport = expected, made(name, "sums")
    while line := await asyncio.to_thread(sys.stdin.readline):
        ask = json.loads(line)
        block = ask["block"]
        sources, destinations = bench.shuffled(total, block)
        if ask["do"] == "open":
            pool, transport = DevicePool(bench.layout_of(block), total // block, 0), made(name, "sums")
            transport.register(pool)
            await transport.start(HOST, 0)
            say([transport.metadata().hex(), pool.handle().hex()])
        elif ask["do"] == "expect":
            transport.expect(ask["tag"], destinations.tolist())
            say(None)
        elif ask["do"] == "poison":
            runtime.memset(pool.address, bench.POISON, total)
            runtime.deviceSynchronize()
            say(None)
        elif ask["do"] == "check":
            say(bench.wrong_words(pool.address, destinations, expected.address, sources, block))
        elif ask["do"] == "verify":
            began = time.perf_counter()
            wrong = await transport.mismatches(destinations.astype(np.int64), bytes.fromhex(ask["sums"]))
            say([int(wrong.size), time.perf_counter() - began])
        else:
            await transport.close()
            pool.close()
            say(None)
    expected.close()


# ---- the prefill process -----------------------------------------------------------------------------------


async def measure(name: str, total: int, rounds: int) -> list[dict[str, Any]]:
    """All block sizes, one after another."""
    import cuda_bench as bench

    data = bench.random_bytes(total, SEED)
    owner = Owner([__file__, "--own", name, str(total)], "1")
    found = [await one_size(name, owner, data, block, rounds) for block in bench.BLOCK_BYTES]
    owner.close()
    return found


async def one_size(name: str, owner: Owner, data: np.ndarray, block: int, rounds: int) -> dict[str, Any]:
    """Medians of one block size; ends the run if a byte is wrong."""
    import cuda_bench as bench

    from dynamoc.runtime.kv.cuda.pool import DevicePool, MappedPool

    total, plain = data.size, bench.Stream()
    pool = DevicePool(bench.layout_of(block), total // block, 0)
    bench.upload(pool, data)
    pairs = BlockPairs(*(order.astype(np.int64) for order in bench.shuffled(total, block)))
    offer, handle = map(bytes.fromhex, owner.ask("open", block=block))
    mapped = MappedPool(handle, 0)
    transports = {what: made(name, what) for what in TARGETS[name]}
    peers = {}
    for what, transport in transports.items():
        transport.register(pool)
        peers[what] = await transport.connect(offer, 120)
    tags = iter(range(1, 1_000_000))
    took: dict[str, list[float]] = {what: [] for what in (*transports, "copy", "verify")}
    for turn in range(rounds + 1):
        for what, transport in transports.items():
            owner.ask("poison", block=block)
            tag = next(tags)
            owner.ask("expect", block=block, tag=tag)
            began = time.perf_counter()
            completion = await transport.write(peers[what], pairs, LIMIT_S, tag).wait()
            took[what].append(time.perf_counter() - began)
            if completion.outcome is not Outcome.SUCCESS:
                raise SystemExit(f"{what} of {block} B blocks: {completion.reason}")
            if wrong := owner.ask("check", block=block):
                raise SystemExit(f"{wrong} wrong words after a {what} of {block} B blocks")
        sums = completion.checksums.astype("<u8").tobytes().hex()
        mismatched, seconds = owner.ask("verify", block=block, sums=sums)
        if mismatched:
            raise SystemExit(f"{mismatched} blocks of {block} B are right, but not by their sums")
        took["verify"].append(seconds)
        took["copy"].append(timed_copy(plain, mapped.address, pool.address, total))
        if not turn:  # the first round warms up
            for times in took.values():
                times.clear()
    for transport in transports.values():
        await transport.close()
    mapped.close()
    owner.ask("close", block=block)
    pool.close()
    return {"block": block, "seconds": took}


def timed_copy(plain: Any, target: int, source: int, total: int) -> float:
    """Seconds of one plain copy of all bytes into the peer's pool, mapped here."""
    began = time.perf_counter()
    plain.copy(target, source, total)
    plain.wait()
    return time.perf_counter() - began


# ---- both --------------------------------------------------------------------------------------------------


def figures(
    name: str, rows: list[dict[str, Any]], nixl: list[dict[str, Any]], facts: dict[str, Any], total: int
) -> list[dict[str, Any]]:
    """One object a block size and way."""

    def rate(seconds: list[float], of: Callable[[list[float]], float] = statistics.median) -> float:
        return round(total / of(seconds) / 1e9, 1)

    found: list[dict[str, Any]] = []
    for row in rows:
        block, took = row["block"], row["seconds"]
        beside = [one for one in nixl if one["block"] == block]
        peers = {f"NIXL UCX {one['op']}, num_threads={one['threads']}": one["gb_s"] for one in beside}
        for what, target in TARGETS[name].items():
            found.append(
                {
                    "figure": f"P to D through the {name} transport, {block} B blocks shuffled, {what}",
                    "ours": rate(took[what]),
                    "ceiling": rate(took["copy"]),
                    "peer": peers or None,
                    "target": target,
                    "unit": "GB/s",
                    "ratio": round(rate(took[what]) / rate(took["copy"]), 3),
                    "n": len(took[what]),
                    "slowest": rate(took[what], max),
                    "verified_gb_s": rate(took["verify"]),
                    **facts,
                }
            )
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """A line a figure."""
    for row in rows:
        best, target = max((row["peer"] or {}).values(), default=0.0), row["target"]
        verdict = "" if target is None else f"; target {target:g}: {against(row['ours'], target)}"
        print(
            f"{row['figure']:78} {row['ours']:6} GB/s (slowest {row['slowest']}), copy {row['ceiling']}, "
            f"NIXL at best {best}{verdict}"
        )


def main() -> None:
    """Measure, print, write `results/transport_cuda.json`, or `transport_nixl_cuda.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=sorted(TARGETS), default="nvlink")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--no-nixl", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    need_gpus(2)
    import cuda_bench as bench

    name = options.transport
    told = "" if name == "nvlink" else f" --transport {name}"
    facts = bench.facts(f"python benchmarks/transport_cuda.py{told} --mib {options.mib} --rounds {options.rounds}")
    total = options.mib << 20
    rows = in_child([__file__, "--measure", name, str(total), str(options.rounds)], "0", 300)
    if rows is None:
        sys.exit(1)
    nixl = [] if options.no_nixl else p2p_cuda.beside(total)
    found = figures(name, rows, nixl or [], facts, total)
    file = "transport_cuda.json" if name == "nvlink" else f"transport_{name}_cuda.json"
    bench.save(options.output or Path(__file__).with_name("results") / file, found)
    show(found)
    if nixl is None:
        print("NIXL failed: see above", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--own"]:
        uvloop.run(own(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[1:2] == ["--measure"]:
        say(uvloop.run(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
