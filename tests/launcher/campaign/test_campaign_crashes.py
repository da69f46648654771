"""Whatever instant a launcher ends at, the next one brings the table that one launcher alone would have brought."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynamoc.launcher.campaign.opening import open_campaign
from dynamoc.launcher.campaign.owner import OwnedError, owned
from dynamoc.launcher.campaign.running import run_campaign
from dynamoc.launcher.campaign.state import State
from dynamoc.launcher.campaign.store import Store, create_store
from dynamoc.launcher.reading import Findings

CAMPAIGN = """dynamoc: 1
campaign: crash
base:
  dynamoc: 1
  name: mockers
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, block_size: 16, context_length: 1024, kv_blocks: 512}
  components:
    frontend: {role: frontend, port: 8000}
    router: {role: router}
    prefill: {role: prefill}
    decode: {role: decode}
  edges: [frontend -> router -> prefill -> decode]
target: simulated
axes:
  defaults.block_size: [16, 32]
  defaults.max_batched_tokens: [256, 512]
loads:
  - {isl: 64, osl: 4, concurrency: [1, 2, 4], requests: 4}
  - {isl: 32, osl: 4, search: {max: 8}, requests: 8}
sla: [tpot_ms@p99 <= 6.1]
repeats: 2
"""
KILLS = 10
CONSOLE = Console(quiet=True)


class CrashError(BaseException):
    """The end of the launcher, at a place of the test's choice."""


def fresh(folder: Path) -> Store:
    folder.mkdir(exist_ok=True)
    file = folder / "campaign.yaml"
    file.write_text(CAMPAIGN)
    opened = open_campaign(file, Findings())
    return create_store(folder, opened.campaign, opened.cluster, opened.texts)


def go_on(store: Store) -> None:
    run_campaign(store, CONSOLE, lambda _: None)


def table(store: Store) -> list[bytes]:
    """Every result as it was written, in the order of points and repeats."""
    lines = (store.folder / "results.jsonl").read_bytes().splitlines()
    keys = [(row.point, row.labels["repeat"]) for row in store.results.read()]

    assert len(keys) == len(set(keys)), "a result is there twice"
    return sorted(lines)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    store = fresh(tmp_path_factory.mktemp("whole"))
    go_on(store)
    return table(store)


def test_the_whole_campaign_is_measured(expected: list[bytes]) -> None:
    assert len(expected) > 4 * 3 * 2


def crash_points(results: int) -> Iterator[tuple[int, float]]:
    """Which write ends early, and how much of it is there: a line a result, and two for each of four deployments."""
    dice = random.Random(11)
    for _ in range(50):
        yield dice.randrange(results + 8), dice.choice([0.0, 0.5, 1.0])


def test_fifty_ends_in_the_middle_of_a_write_change_nothing(
    tmp_path: Path, expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, new = os.write, fresh(tmp_path / "new")
    for number, (at, share) in enumerate(crash_points(len(expected))):
        store = Store(shutil.copytree(new.folder, tmp_path / str(number)))
        left = at

        def write(descriptor: int, data: Any, share: float = share) -> int:
            nonlocal left
            left -= 1
            if left == -1:
                real(descriptor, data[: int(len(data) * share)])
                raise CrashError
            return real(descriptor, data)

        with monkeypatch.context() as patched:
            patched.setattr("dynamoc.launcher.campaign.lines.os.write", write)
            with pytest.raises(CrashError):
                go_on(store)
        go_on(Store(store.folder))

        assert table(store) == expected


def test_real_kills_change_nothing(tmp_path: Path, expected: list[bytes]) -> None:
    """kill -9 again and again until a launcher comes to the end by itself."""
    store = fresh(tmp_path)
    words = [sys.executable, "-m", "dynamoc", "sweep", "resume", str(store.folder)]
    dice, kills = random.Random(5), 0
    while kills < KILLS:
        launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        owner = store.folder / "owner.json"
        deadline = time.monotonic() + 60
        while launcher.poll() is None and not _is_of(owner, launcher.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.15)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        kills += 1
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert table(store) == expected


def _is_of(owner: Path, pid: int) -> bool:
    return owner.is_file() and f'"pid":{pid},'.encode() in owner.read_bytes()


TRACED = CAMPAIGN.replace("sla:", "  - {isl: 64, osl: 4, trace: trace.jsonl, trace_block_tokens: 64}\nsla:")
TRACE = "".join(f'{{"timestamp": {20 * n}, "input_length": 32, "output_length": 4}}\n' for n in range(6))


def fail_some(folder: Path) -> tuple[Store, list[bytes]]:
    """A campaign of which some points failed for want of their trace, and the table it has when the trace is there."""
    (folder / "trace.jsonl").write_text(TRACE)
    (folder / "campaign.yaml").write_text(TRACED)
    opened = open_campaign(folder / "campaign.yaml", Findings())
    stores = [create_store(folder, opened.campaign, opened.cluster, opened.texts) for _ in range(2)]
    go_on(stores[0])
    (folder / "trace.jsonl").unlink()
    go_on(stores[1])
    (folder / "trace.jsonl").write_text(TRACE)
    return stores[1], table(stores[0])


def test_real_kills_while_failed_points_are_measured_again_change_nothing(tmp_path: Path) -> None:
    """Whenever the launcher is killed, a point is failed, pending or measured, and in the end all are measured."""
    store, whole = fail_some(tmp_path)
    failed = len(State(store).failures())
    words = [sys.executable, "-m", "dynamoc", "sweep", "resume", "--retry-failed", str(store.folder)]
    dice = random.Random(7)
    for _ in range(KILLS // 2):
        launcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        owner = store.folder / "owner.json"
        deadline = time.monotonic() + 60
        while launcher.poll() is None and not _is_of(owner, launcher.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.05)
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        counts = State(Store(store.folder)).counts()
        assert counts["done"] + counts["failed"] <= len(whole)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    assert failed == 4 * 2, "a trace in each of four deployments, twice"
    assert done.returncode == 0, done.stdout + done.stderr
    assert table(store) == whole
    assert not State(Store(store.folder)).failures()


def test_ends_in_the_middle_of_a_write_while_failed_points_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, whole = fail_some(tmp_path)
    real = os.write
    for at in range(0, 22, 2):  # a launcher's two lines, and of each deployment five
        copy = tmp_path / f"copy-{at}"
        shutil.copytree(failed.folder, copy)
        store, left = Store(copy), at

        def write(descriptor: int, data: Any) -> int:
            nonlocal left
            left -= 1
            if left == -1:
                real(descriptor, data[: len(data) // 2])
                raise CrashError
            return real(descriptor, data)

        with monkeypatch.context() as patched:
            patched.setattr("dynamoc.launcher.campaign.lines.os.write", write)
            with pytest.raises(CrashError):
                run_campaign(store, CONSOLE, lambda _: None, retries_failed=True)
        run_campaign(Store(copy), CONSOLE, lambda _: None, retries_failed=True)

        assert table(store) == whole


def test_one_launcher_at_a_time(tmp_path: Path) -> None:
    store = fresh(tmp_path)
    with owned(store.folder), pytest.raises(OwnedError, match=str(os.getpid())):
        go_on(store)


def test_a_campaign_that_is_done_is_not_touched_again(tmp_path: Path, expected: list[bytes]) -> None:
    store = fresh(tmp_path)
    go_on(store)
    before = (store.folder / "results.jsonl").read_bytes()
    go_on(Store(store.folder))

    assert (store.folder / "results.jsonl").read_bytes() == before
    assert State(Store(store.folder)).counts()["done"] == len(expected)
