"""A native engine with a kept pool in a process of its own: says what it found and what it computed, then waits.

    python kept_engine.py MODEL cpu|cuda [change]

With `change`, a bit of what the second prompt's first block holds is another one in the end, as if memory had failed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from driving import Listener, request, settings

from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.plane.messages import BlocksStored

PROMPTS = [[(7 * n + 3 * k) % 160 for k in range(40)] for n in range(4)]
"""Of the vocabulary of `tiny`, without what it imports."""
OUTPUT = 8
BLOCK_SIZE = 4


def main(model: str, device: str, change: str = "") -> None:
    worker = settings("native", blocks=96, block_size=BLOCK_SIZE, args={"kv": "kept", "threads": 1})
    engine = make_engine(msgspec.structs.replace(worker, device=device), Path(model), "tiny")
    assert isinstance(engine, CoreEngine)
    engine.load(lambda _fraction, _what: None)
    keeping = engine.keeping()
    assert keeping is not None
    recovery = keeping.recovery
    told = sum(len(event.blocks) for event in engine.resident() if isinstance(event, BlocksStored))
    listener = Listener(engine)
    tokens = []
    for key, prompt in enumerate(PROMPTS):
        engine.add(request(key, prompt, OUTPUT, temperature=0.0))
        tokens.append(listener.finish(key)[key])
    cached = {o.request_id: o.cached_tokens for r in listener.seen for o in r.outputs if o.cached_tokens}
    if change:
        flip(engine)
    found = {name: getattr(recovery, name) for name in ("verified", "wrong", "orphaned", "torn", "lost_because")}
    print(json.dumps({**found, "told": told, "tokens": tokens, "cached": cached}), flush=True)
    time.sleep(600)


def flip(engine: CoreEngine) -> None:
    pool, scheduler = engine.pool(), engine._scheduler
    assert scheduler is not None
    (block, *_) = scheduler.blocks.match(PROMPTS[1])
    where = block * pool.layout.block_bytes + 9
    if isinstance(pool, HostPool):
        pool.data[where] ^= 4
        return
    from dynamoc.runtime.kv.cuda.device import runtime

    byte = np.zeros(1, np.uint8)
    torch.cuda.synchronize()
    runtime.memcpy(byte.ctypes.data, pool.address + where, 1, 2)
    byte ^= 4
    runtime.memcpy(pool.address + where, byte.ctypes.data, 1, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
