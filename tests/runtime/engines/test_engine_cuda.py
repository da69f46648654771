"""An engine on a real GPU: tiers below it change no token, and what it says is in the pool is there."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from driving import Listener, request
from gpu_pools import why_no_gpu
from tiny import GEOMETRY, worker_settings, write_model

from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.native.progress import StepProgress
from dynamoc.runtime.engines.native.runner import TorchRunner
from dynamoc.runtime.engines.native.sequence import Chunk, Sequence, Step
from dynamoc.runtime.engines.protocol import Written
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.kv.cuda.device import runtime, wait_for
from dynamoc.runtime.manifest import CacheSettings, DiskTier
from dynamoc.runtime.plane.messages import Sampling

PROMPTS = [[(7 * n + 3 * k) % GEOMETRY["vocab_size"] for k in range(60)] for n in range(12)]
FRAME = 64 << 10


pytestmark = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu() or "there is a GPU")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, num_hidden_layers=6)
    return folder


def texts(model: Path, cache: CacheSettings | None, blocks: int) -> tuple[list[list[int]], dict[str, int]]:
    """The tokens of all prompts, asked twice, and the blocks that came from each tier."""
    worker = msgspec.structs.replace(worker_settings(device="cuda", blocks=blocks, max_sequences=1), cache=cache)
    engine = make_engine(worker, model, "tiny")
    assert isinstance(engine, CoreEngine)
    engine.load(lambda _fraction, _what: None)
    listener = Listener(engine)
    answers = []
    for key, prompt in enumerate(PROMPTS * 2):
        engine.add(request(key, prompt, 12, temperature=0.0))
        answers.append(listener.finish(key)[key])
        while engine._stack is not None and not engine._stack.idle():
            time.sleep(0.001)
    engine.stop()
    found: dict[str, int] = {}
    for report in listener.seen:
        for tier, count in (report.tiers.hits if report.tiers is not None else {}).items():
            found[tier] = found.get(tier, 0) + count
    return answers, found


@pytest.mark.parametrize("tier", ["G2", "G3"])
def test_tiers_change_no_token(tier: str, model: Path, tmp_path: Path) -> None:
    expected, _ = texts(model, None, blocks=400)
    cache = CacheSettings(host_bytes=400 * FRAME, admission="all")
    if tier == "G3":
        cache = CacheSettings(disk=DiskTier(str(tmp_path), 400 * FRAME), admission="all")
    answers, found = texts(model, cache, blocks=40)

    assert answers == expected
    assert found[tier] >= 100, "40 blocks hold two prompts"


def test_a_group_of_layers_is_there_when_its_event_has_passed(model: Path) -> None:
    runner = TorchRunner(worker_settings(device="cuda"), model)
    runner.load(lambda _fraction, _what: None)
    layout, pool = runner.layout(), runner.pool()
    seen: list[tuple[range, bytes]] = []

    def block(number: int) -> bytes:
        data = np.empty(layout.block_bytes, np.uint8)
        runtime.memcpy(data.ctypes.data, pool.address + number * layout.block_bytes, data.size, 2)
        return data.tobytes()

    def look(written: Written) -> None:
        assert written.event is not None
        wait_for(written.event, 10)
        seen.append((written.layers, block(written.blocks[0])))

    sequence = Sequence(7, PROMPTS[0], 60, Sampling(max_tokens=1, temperature=0.0), hold_kv=True)
    sequence.blocks = list(range(20, 35))
    progress = StepProgress(step := Step((Chunk(sequence, 0, 60, sample=True),)), layout.layers, 4, look)
    runner.execute(step, progress)
    progress.finish()
    last = block(20)
    runner.close()

    assert [layer for layers, _ in seen for layer in layers] == list(range(6))
    for layers, data in seen:
        end = layers.stop * layout.layer_bytes
        assert data[:end] == last[:end]
        assert any(data[end - layout.layer_bytes : end])
