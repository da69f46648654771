"""How soon a worker has its KV back: a kept pool whose user was killed, mapped and verified block by block.

    python benchmarks/kept_kv.py [--device 0|cpu] [--gb 16] [--rounds 11] [--output FILE]

One process fills a pool of Llama-3.1-8B's blocks with random bytes, records every block in the journal as prefixes of
64 blocks, and is killed with SIGKILL. A second one takes the pool over as a worker does at its start: it connects and
maps (`mapped_s`), reads the journal, sums every block and builds the prefix tree (`recovered_s`); the device's context
and the kernels are there before, as in any worker. It is killed too, and so on. Beside it, in the same process, what
verifying costs at least: one pass of the same digests over all blocks (`ceiling_s`). Every round must find every block
right. Last, one bit is flipped: the next round must find exactly that block wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dynamoc.runtime.engines.native.blocks import BlockManager
from dynamoc.runtime.engines.native.keeping import Keeping
from dynamoc.runtime.kv.layout import KvLayout
from dynamoc.runtime.kv.memory_service.journal import Record
from dynamoc.runtime.kv.memory_service.kept import KeptPool, KeptShape
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.kv.tiers.page import page_name

LAYOUT = KvLayout(layers=32, heads=8, head_dim=128, block_size=16, dtype="bfloat16", item_bytes=2)
PREFIX = 64


class User:
    """A process that uses the pool: a word in, a line of JSON out."""

    def __init__(self, words: list[str], run_dir: str) -> None:
        marks = {"DYNAMOC_RUN_DIR": run_dir, "DYNAMOC_PROCESS": "decode-0"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **marks},
        )

    def ask(self, word: str) -> Any:
        """The answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """As if it had crashed."""
        self.process.kill()
        self.process.wait()


def use(device: int | None, blocks: int) -> None:
    """The process behind `User`, until it is killed."""
    if device is not None:
        from dynamoc.runtime.kv.cuda.copier import Copier

        Copier(device).close()
    for line in sys.stdin:
        if line.strip() == "open":
            began = time.perf_counter()
            kept = KeptPool(KeptShape(LAYOUT, blocks, "random bytes", device))
            mapped = time.perf_counter()
            recovery = Keeping(kept, BlockManager(blocks, LAYOUT.block_size), lambda call: call()).recovery
            ended = time.perf_counter()
            said = {"mapped_s": mapped - began, "recovered_s": ended - mapped}
            print(json.dumps({**said, "verified": recovery.verified, "wrong": recovery.wrong}), flush=True)
        elif line.strip() == "ceiling":
            began = time.perf_counter()
            kept.digests(range(blocks))
            print(json.dumps(time.perf_counter() - began), flush=True)
        elif line.strip() == "fill":
            fill(kept, blocks)
            print(json.dumps(True), flush=True)
        elif line.strip() == "flip":
            write(kept, blocks // 2, secrets.token_bytes(LAYOUT.block_bytes))
            print(json.dumps(True), flush=True)


def fill(kept: KeptPool, blocks: int) -> None:
    """Random bytes in every block, recorded as a worker would."""
    pack, parent = struct.Struct(f"<{LAYOUT.block_size}I").pack, None
    chance = np.random.default_rng(1)
    for block in range(blocks):
        write(kept, block, chance.bytes(LAYOUT.block_bytes))
    for block, digest in enumerate(kept.digests(range(blocks))):
        tokens = pack(*(block * LAYOUT.block_size + n for n in range(LAYOUT.block_size)))
        parent = None if block % PREFIX == 0 else parent
        kept.journal.store(block, Record(parent, tokens, digest))
        parent = page_name(parent, tokens)


def write(kept: KeptPool, block: int, data: bytes) -> None:
    """The bytes of one block."""
    if isinstance(kept.pool, HostPool):
        kept.pool.block(block)[:] = data
        return
    from dynamoc.runtime.kv.cuda.device import on_device, runtime

    source = np.frombuffer(data, np.uint8)
    with on_device(kept.pool.device, "fill a block"):
        runtime.memcpy(kept.pool.address + block * LAYOUT.block_bytes, source.ctypes.data, source.size, 1)


def main() -> None:
    """Measure, verify, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="0", help="a GPU's number, or cpu")
    parser.add_argument("--gb", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--use", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.use is not None:
        use(None if options.device == "cpu" else int(options.device), options.use)
        return
    blocks = int(options.gb * 1e9 / LAYOUT.block_bytes)
    words = ["--device", options.device, "--use", str(blocks)]
    with tempfile.TemporaryDirectory() as run_dir:
        (Path(run_dir) / "key").write_bytes(secrets.token_bytes(32))
        result = measure(words, run_dir, blocks, options.rounds)
    result |= {"device": options.device, "python": platform.python_version(), "block_bytes": LAYOUT.block_bytes}
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def measure(words: list[str], run_dir: str, blocks: int, rounds: int) -> dict[str, Any]:
    """A life a round, each killed."""
    user = User(words, run_dir)
    assert user.ask("open")["verified"] == 0
    user.ask("fill")
    lives, ceilings = [], []
    for _ in range(rounds):
        user.kill()
        user = User(words, run_dir)
        lives.append(user.ask("open"))
        assert lives[-1]["verified"] == blocks, lives[-1]
        ceilings.append(user.ask("ceiling"))
    user.ask("flip")
    user.kill()
    user = User(words, run_dir)
    flipped = user.ask("open")
    user.kill()
    assert flipped["wrong"] == 1, flipped
    recovered = statistics.median(life["recovered_s"] for life in lives)
    return {
        "blocks": blocks,
        "gb": round(blocks * LAYOUT.block_bytes / 1e9, 2),
        "rounds": rounds,
        "mapped_s": round(statistics.median(life["mapped_s"] for life in lives), 4),
        "recovered_s": round(recovered, 4),
        "recovered_gb_per_s": round(blocks * LAYOUT.block_bytes / recovered / 1e9, 1),
        "ceiling_s": round(statistics.median(ceilings), 4),
        "wrong_after_flip": flipped["wrong"],
        "verified_after_flip": flipped["verified"],
    }


if __name__ == "__main__":
    main()
