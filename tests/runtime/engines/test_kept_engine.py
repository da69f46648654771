"""Native engines killed with SIGKILL: the next one finds their KV, verified, and computes what it would have alone."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_pools import why_no_gpu
from kept_engine import BLOCK_SIZE, OUTPUT, PROMPTS
from memory_owners import end_owners
from tiny import write_model

# Of each sequence the last token is never computed.
STORED = [(len(prompt) + OUTPUT - 1) // BLOCK_SIZE for prompt in PROMPTS]
PREFIX = [(len(prompt) - 1) // BLOCK_SIZE for prompt in PROMPTS]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(bool(why_no_gpu()), reason="no GPU"))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "key").chmod(0o600)
    yield tmp_path
    end_owners(tmp_path)


def life(run_dir: Path, *words: str) -> dict[str, Any]:
    """One engine from its start until it is killed; what it said."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    marks = {"DYNAMOC_RUN_DIR": str(run_dir), "DYNAMOC_PROCESS": "decode-0", "PYTHONPATH": path}
    words = (sys.executable, str(here / "kept_engine.py"), *words)
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **marks}) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 180)[0], "it says nothing"
        said = process.stdout.readline()
        process.kill()
    assert said, "it ended by itself"
    return dict(json.loads(said))


@pytest.mark.parametrize("device", DEVICES)
def test_a_killed_engine_s_kv_is_there_for_the_next(run_dir: Path, model: Path, device: str, tmp_path: Path) -> None:
    first = life(run_dir, str(model), device)
    assert first["verified"] == first["told"] == 0
    assert first["cached"] == {}
    second = life(run_dir, str(model), device, "change")

    assert second["verified"] == second["told"] == sum(STORED)
    assert second["wrong"] == second["orphaned"] == second["torn"] == 0
    assert second["lost_because"] == ""
    assert second["tokens"] == first["tokens"]
    assert second["cached"] == {str(key): blocks * BLOCK_SIZE for key, blocks in enumerate(PREFIX)}

    third = life(run_dir, str(model), device)

    assert third["wrong"] == 1
    assert third["orphaned"] == STORED[1] - 1
    assert third["verified"] == third["told"] == sum(STORED) - STORED[1]
    assert third["tokens"] == first["tokens"]
    assert sorted(third["cached"]) == ["0", "2", "3"]

    other = tmp_path / "other"
    other.mkdir()
    write_model(other, initializer_range=0.3)
    fourth = life(run_dir, str(other), device)

    assert fourth["lost_because"] == "other"
    assert fourth["verified"] == fourth["wrong"] == 0
    assert fourth["cached"] == {}
