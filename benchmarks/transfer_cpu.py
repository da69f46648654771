"""How fast KV blocks get from one process's pool into another's on a host without a GPU.

    python benchmarks/transfer_cpu.py [--mib 512] [--rounds 11] [--transports shm tcp nixl] [--output FILE]

A prefill process pushes every block of its pool onto a random permutation of a decode process's blocks. Every round is
verified: the decode process clears its pool before, and hashes every block after. `check` adds the time in which the
receiver verifies the transport's own checksums, as it does before any token depends on the blocks; here after the last
byte, between workers part by part while others are under way (`benchmarks/handoff_cpu.py`).

The ceiling of `shm` is a memmove of the same bytes within one process, in one call a thread, with one and with two
threads, whichever is faster; that of `tcp` is a bare loopback stream of the same bytes over as many sockets. `nixl`,
where UCX copies from process to process within a host, moves every byte three times since it stages them at both ends;
its ceiling is the memmove too. Ours and the ceilings take turns, and every figure is the median of its rounds. All of
it is done with glibc as it is, and with its threshold for non-temporal stores lowered to 64 KiB for both processes and
the ceiling alike.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.transfer.pairs import BlockPairs, indices_of
from dynamoc.runtime.transports.nixl import NixlTransport
from dynamoc.runtime.transports.protocol import Outcome, Peer
from dynamoc.runtime.transports.shm import ShmTransport
from dynamoc.runtime.transports.tcp import TcpTransport
from dynamoc.runtime.transports.tcp_writer import STREAMS

KEY = b"benchmark" * 4
HOST = "127.0.0.1"
BLOCK_BYTES = (16 * 1024, 64 * 1024, 368_640, 2 * 1024 * 1024)
"""368,640 is a block of 16 tokens of SmolLM2-135M in bfloat16."""
TUNED = "glibc.cpu.x86_non_temporal_threshold=0x10000"
MAKE: dict[str, type[ShmTransport | TcpTransport]] = {
    "shm": ShmTransport,
    "tcp": TcpTransport,
    "nixl": NixlTransport,
}


def pool_of(block_bytes: int, blocks: int) -> HostPool:
    """A pool whose pages are all there."""
    layout = KvLayout(layers=1, heads=1, head_dim=block_bytes // 32, block_size=16, dtype="uint8", item_bytes=1)
    pool = HostPool(layout, blocks)
    np.frombuffer(pool.data, np.uint8)[:] = 1
    return pool


# ---- the decode process ------------------------------------------------------------------------------------


async def own(name: str, block_bytes: int, blocks: int) -> None:
    """Own the destination: one line in, one line out."""
    pool = pool_of(block_bytes, blocks)
    transport = MAKE[name](KEY)
    transport.register(pool)
    await transport.start(HOST, 0)
    bare = socket.create_server((HOST, 0))
    print(json.dumps([transport.metadata().hex(), bare.getsockname()[1]]), flush=True)
    for stream in range(STREAMS):
        threading.Thread(target=drain, args=(bare, pool, stream), daemon=True).start()
    while line := await asyncio.to_thread(sys.stdin.readline):
        words = line.split()
        if words[0] == "verify":
            named = indices_of(json.loads(words[1]))
            began = time.perf_counter()
            wrong = await transport.mismatches(named, bytes.fromhex(words[2]))
            print(json.dumps([wrong.size, time.perf_counter() - began]), flush=True)
        elif words[0] == "digests":
            print(json.dumps([xxhash.xxh3_64_intdigest(pool.block(block)) for block in range(blocks)]), flush=True)
        else:
            transport.expect(int(line), range(blocks))
            np.frombuffer(pool.data, np.uint8)[:] = 0
            print("null", flush=True)
    os._exit(0)


def drain(listener: socket.socket, pool: HostPool, stream: int) -> None:
    """Receive a share of the pool again and again, and say so after each."""
    connection, _ = listener.accept()
    share = len(pool.data) // STREAMS
    while True:
        view = pool.data[stream * share : (stream + 1) * share]
        while view.nbytes:
            got = connection.recv_into(view)
            if not got:
                return
            view = view[got:]
        connection.sendall(b"!")


# ---- the prefill process -----------------------------------------------------------------------------------


class Case:
    """One transport and block size: a pool here, a process with another."""

    def __init__(self, name: str, block_bytes: int, total: int) -> None:
        self.name = name
        self.blocks = total // block_bytes
        self.bytes = self.blocks * block_bytes
        self.pool = pool_of(block_bytes, self.blocks)
        self.copy = pool_of(block_bytes, self.blocks)
        np.frombuffer(self.pool.data, np.uint64)[:] = np.random.default_rng(1).integers(0, 2**63, self.bytes // 8)
        self.pairs = self._shuffled()
        self.digests = [xxhash.xxh3_64_intdigest(self.pool.block(block)) for block in self.pairs.sources.tolist()]
        self.tags = iter(range(1, 1_000_000))
        words = [sys.executable, __file__, "--own", name, str(block_bytes), str(self.blocks)]
        self.owner = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        metadata, self.bare_port = self._read()
        self.metadata = bytes.fromhex(metadata)

    def ask(self, line: str) -> Any:
        """One command to the decode process."""
        assert self.owner.stdin
        self.owner.stdin.write(line + "\n")
        self.owner.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the decode process."""
        self.owner.communicate()

    async def push(self, transport: ShmTransport | TcpTransport, peer: Peer, *, checksums: bool) -> tuple[float, float]:
        """Seconds of one transfer of everything, and of its verification by the receiver; every byte was checked."""
        tag = next(self.tags)
        self.ask(str(tag))
        started = time.perf_counter()
        completion = await transport.write(peer, self.pairs, 120, tag).wait()
        took = time.perf_counter() - started
        assert completion.outcome is Outcome.SUCCESS, completion.reason
        arrived = self.ask("digests")
        assert [arrived[block] for block in self.pairs.destinations.tolist()] == self.digests
        if not checksums:
            return took, 0.0
        blocks = json.dumps(self.pairs.destinations.tolist(), separators=(",", ":"))
        wrong, verifying = self.ask(f"verify {blocks} {completion.checksums.tobytes().hex()}")
        assert wrong == 0
        return took, verifying

    def memmove(self, threads: int) -> float:
        """Seconds to move the same bytes within this process."""
        share = self.bytes // threads
        source, target = (np.frombuffer(pool.data, np.uint8).ctypes.data for pool in (self.pool, self.copy))

        def body(index: int) -> None:
            ctypes.memmove(target + index * share, source + index * share, share)

        return in_threads(body, threads)

    def bare_stream(self, sockets: list[socket.socket]) -> float:
        """Seconds to send the same bytes over plain sockets."""
        share = self.bytes // STREAMS

        def body(index: int) -> None:
            sockets[index].sendall(self.pool.data[index * share : (index + 1) * share])
            sockets[index].recv(1)

        return in_threads(body, STREAMS)

    def _read(self) -> Any:
        assert self.owner.stdout
        return json.loads(self.owner.stdout.readline())

    def _shuffled(self) -> BlockPairs:
        return BlockPairs(*(np.random.default_rng(seed).permutation(self.blocks) for seed in (1, 2)))


def in_threads(body: Callable[[int], None], threads: int) -> float:
    """Seconds until all of them are done."""
    made = [threading.Thread(target=body, args=(index,)) for index in range(threads)]
    started = time.perf_counter()
    for thread in made:
        thread.start()
    for thread in made:
        thread.join()
    return time.perf_counter() - started


async def measure(case: Case, rounds: int) -> dict[str, float]:
    """Median GB/s of ours and of the ceilings, which take turns."""
    took: dict[str, list[float]] = {}
    with_sums, without = MAKE[case.name](KEY), MAKE[case.name](KEY, digest=lambda _: 0)
    peers = []
    for transport in (with_sums, without):
        transport.register(case.pool)
        peers.append(await transport.connect(case.metadata, 10))
    sockets = [socket.create_connection((HOST, case.bare_port)) for _ in range(STREAMS)]
    for turn in range(rounds + 1):
        pushed, verified = await case.push(with_sums, peers[0], checksums=True)
        seconds = {
            "checksums": pushed,
            "verified": pushed + verified,
            "no checksums": (await case.push(without, peers[1], checksums=False))[0],
            "memmove, 1 thread": case.memmove(1),
            "memmove, 2 threads": case.memmove(2),
        }
        if case.name == "tcp":
            seconds["bare stream"] = case.bare_stream(sockets)
        if turn:  # the first one warms up
            for what, value in seconds.items():
                took.setdefault(what, []).append(value)
    for sock in sockets:
        sock.close()
    for transport in (with_sums, without):
        await transport.close()
    return {what: case.bytes / statistics.median(values) / 1e9 for what, values in took.items()}


def figures(name: str, block_bytes: int, case: Case, speed: dict[str, float], rounds: int) -> list[dict[str, Any]]:
    """One object with checksums, one with the receiver's verification after it, one without."""
    memmove = max(value for what, value in speed.items() if what.startswith("memmove"))
    ceiling = speed.get("bare stream", memmove)
    tuned = "GLIBC_TUNABLES" in os.environ
    return [
        {
            "figure": f"P to D over {name}, {block_bytes} B blocks, {what}{', tuned' if tuned else ''}",
            "ours": round(speed[what], 2),
            "ceiling": round(ceiling, 2),
            "peer": None,
            "unit": "GB/s",
            "ratio": round(speed[what] / ceiling, 3),
            "n": rounds,
            "blocks": case.blocks,
            "bytes": case.bytes,
            "memmove": {k.removeprefix("memmove, "): round(v, 2) for k, v in speed.items() if k.startswith("memmove")},
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {"python": platform.python_version(), **{n: version(n) for n in ("numpy", "xxhash")}},
            "command": f"python benchmarks/transfer_cpu.py --mib {case.bytes >> 20} --rounds {rounds}",
        }
        for what in ("checksums", "verified", "no checksums")
    ]


def one_case(name: str, block_bytes: int, mib: int, rounds: int) -> None:
    """Measure one transport and block size in this process, print its figures."""
    case = Case(name, block_bytes, mib << 20)
    speed = asyncio.run(measure(case, rounds))
    case.close()
    print(json.dumps(figures(name, block_bytes, case, speed, rounds)))


def main() -> None:
    """Measure, print, write `results/transfer_cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--transports", nargs="+", choices=list(MAKE), default=list(MAKE))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results") / "transfer_cpu.json")
    options = parser.parse_args()
    made = []
    print(
        f"{'path':12} {'block':>9} {'sums':>6} {'share':>6} {'check':>6} {'share':>6} {'none':>6} {'ceiling':>8}"
        "   memmove (GB/s)"
    )
    cases = itertools.product(options.transports, (False, True), BLOCK_BYTES)
    for name, tuned, block_bytes in cases:
        words = [sys.executable, __file__, "--case", name, str(block_bytes), str(options.mib), str(options.rounds)]
        environ = {**os.environ, "GLIBC_TUNABLES": TUNED} if tuned else os.environ
        rows = json.loads(subprocess.check_output(words, text=True, env=environ))
        made += rows
        memmove = ", ".join(f"{value:.2f}" for value in rows[0]["memmove"].values())
        print(
            f"{name + (' tuned' if tuned else ''):12} {block_bytes:9,} {rows[0]['ours']:6.2f} {rows[0]['ratio']:6.1%}"
            f" {rows[1]['ours']:6.2f} {rows[1]['ratio']:6.1%} {rows[2]['ours']:6.2f} {rows[0]['ceiling']:8.2f}"
            f"   {memmove}",
            flush=True,
        )
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--own"]:
        asyncio.run(own(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    elif sys.argv[1:2] == ["--case"]:
        one_case(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        main()
