"""Weights that another process read: the same tensors, mapped; across the ends of workers, owners and models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from memory_owners import end_owners, owners
from torch import Tensor

from dynamoc.runtime.engines.native.shared_weights import SharedWeights, identity_of
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError

CPU = torch.device("cpu")


class Source:
    """Counts how often it is read."""

    device = CPU

    def __init__(self, seed: int = 1) -> None:
        self.reads = 0
        self._seed = seed

    def take(self, name: str, dtype: torch.dtype | None) -> Tensor:
        self.reads += 1
        generator = torch.Generator().manual_seed(self._seed + len(name))
        return torch.randn(7, 33, generator=generator).to(dtype or torch.float32)

    def stack(self, names: list[str], dtype: torch.dtype) -> Tensor:
        return torch.cat([self.take(name, dtype) for name in names])


def tensors_of(source: object) -> list[Tensor]:
    return [
        source.take("a", None),  # type: ignore[attr-defined]
        source.take("a", torch.bfloat16),  # type: ignore[attr-defined]
        source.stack(["bb", "ccc"], torch.bfloat16),  # type: ignore[attr-defined]
    ]


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "key").write_bytes(b"s" * 32)
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("DYNAMOC_RUN_DIR", str(tmp_path))
    yield tmp_path
    end_owners(tmp_path)


def test_a_second_worker_maps_what_the_first_one_read() -> None:
    first, source = SharedWeights(CPU), Source()
    made = first.build("m", lambda: source, tensors_of)
    reads, expected = source.reads, tensors_of(Source())
    second = SharedWeights(CPU)
    mapped = second.build("m", lambda: source, tensors_of)

    assert source.reads == reads == 4
    for one, other, right in zip(made, mapped, expected, strict=True):
        assert torch.equal(one, right)
        assert torch.equal(other, right)
        assert one.dtype == right.dtype
    first.close()
    second.close()
    assert torch.equal(mapped[0], expected[0]), "a tensor keeps its memory"


def test_a_worker_that_comes_back_finds_its_weights() -> None:
    first, source = SharedWeights(CPU), Source()
    first.build("m", lambda: source, tensors_of)
    first.close()
    reads = source.reads
    again = SharedWeights(CPU)
    again.build("m", lambda: source, tensors_of)

    assert source.reads == reads
    again.close()


def test_other_weights_take_the_place_of_those_nobody_uses() -> None:
    first = SharedWeights(CPU)
    first.build("m", Source, tensors_of)
    first.close()
    second = SharedWeights(CPU)

    made = second.build("other", lambda: Source(9), tensors_of)

    assert torch.equal(made[0], tensors_of(Source(9))[0])
    second.close()


def test_weights_in_use_are_not_replaced() -> None:
    first = SharedWeights(CPU)
    made = first.build("m", Source, tensors_of)
    second = SharedWeights(CPU, limit_s=0.3)

    with pytest.raises(MemoryServiceError, match=r"no write lock within 0.3 s: session 1 of process \d+ read"):
        second.build("other", lambda: Source(9), tensors_of)
    assert torch.equal(made[0], tensors_of(Source())[0])
    second.close()
    first.close()


def test_after_the_owner_s_death_old_tensors_hold_and_new_ones_are_read(run_dir: Path) -> None:
    first, source = SharedWeights(CPU), Source()
    made = first.build("m", lambda: source, tensors_of)
    (pid,) = owners(run_dir)
    os.kill(pid, signal.SIGKILL)
    second, reads = SharedWeights(CPU), source.reads

    mapped = second.build("m", lambda: source, tensors_of)

    assert source.reads == 2 * reads
    for one, other in zip(made, mapped, strict=True):
        assert torch.equal(one, other)
    first.close()
    second.close()


def test_one_owner_however_many_start_it(run_dir: Path) -> None:
    words = "import torch\nfrom dynamoc.runtime.engines.native.shared_weights import SharedWeights\n"
    words += "from test_shared_weights import Source, tensors_of\n"
    words += "print(SharedWeights(torch.device('cpu')).build('m', Source, tensors_of)[0].sum().item())"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    running = [subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, env=environ) for _ in range(3)]
    said = {process.communicate(timeout=200)[0] for process in running}

    assert said == {f"{tensors_of(Source())[0].sum().item()}\n".encode()}


def test_an_identity_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = identity_of(tmp_path, torch.float32)

    assert identity_of(tmp_path, torch.float32) == before
    assert identity_of(tmp_path, torch.bfloat16) != before
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert identity_of(tmp_path, torch.float32) != before


def test_without_a_run_there_is_nothing_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNAMOC_RUN_DIR")
    with pytest.raises(ValueError, match="needs a run folder"):
        SharedWeights(CPU)


def test_an_engine_computes_the_same_with_shared_weights(tmp_path: Path) -> None:
    import tiny  # and with it transformers, which other processes that import this module are spared

    model = tmp_path / "model"
    model.mkdir()
    tiny.write_model(model)
    tokens = []
    for args in ({}, {"weights": "shared"}, {"weights": "shared"}):
        runner = tiny.load_runner(model, args=args)
        (sampled,) = tiny.prefill(
            runner, tiny.sequence([(7 * i) % tiny.VOCABULARY for i in range(50)], list(range(20)), logprobs=8)
        )
        tokens.append((sampled.token, [round(logprob, 3) for _, logprob in sampled.logprob.top]))
        runner.close()

    assert tokens[0] == tokens[1] == tokens[2]
