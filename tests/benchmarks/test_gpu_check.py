"""The list of what only GPUs can prove: it runs where there are none, and takes nothing for passed that was not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


def has_gpus() -> bool:
    try:
        return require_devices() > 0
    except DeviceError:
        return False


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "seen_gpus", lambda: (2, ""))
    return module


def step(gpu_check: ModuleType, code: str, **fields: Any) -> Any:
    return gpu_check.Step("one", 1, (sys.executable, "-c", code), "a step", **fields)


def test_every_step_is_there(gpu_check: ModuleType) -> None:
    names = [step.name for step in gpu_check.STEPS]

    assert len(set(names)) == len(names)
    for made in gpu_check.STEPS:
        files = [word for word in made.words if word.endswith(".py")]
        assert files
        assert all((ROOT / file).is_file() for file in files)
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*cuda*.py")}
    assert tests <= {word for made in gpu_check.STEPS for word in made.words}, "every test that needs a GPU is a step"


@pytest.mark.parametrize(
    ("code", "fields", "outcome", "why"),
    [
        ("print('3 passed in 0.1s')", {"proofs": (r"\b[1-9]\d* passed\b",)}, "passed", "3 passed in 0.1s"),
        ("print('4 skipped')", {"proofs": (r"\b[1-9]\d* passed\b",)}, "failed", "status 0: 4 skipped"),
        ("print('no'); raise SystemExit(1)", {}, "failed", "status 1: no"),
        ("print('no NVLink'); raise SystemExit(77)", {}, "skipped", "no NVLink"),
        ("pass", {}, "passed", ""),
    ],
)
def test_what_a_step_comes_to(gpu_check: ModuleType, code: str, fields: dict[str, Any], outcome: str, why: str) -> None:
    found = gpu_check.run(step(gpu_check, code, **fields), "abc")

    assert (found.outcome, found.why, found.commit) == (outcome, why, "abc")
    assert (gpu_check.RESULTS / "gpu_check" / "one.log").is_file()


def test_a_step_that_takes_too_long_is_ended_with_its_children(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "LIMIT_S", 1)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    found = gpu_check.run(step(gpu_check, code), "abc")

    assert (found.outcome, found.why) == ("late", "not done within 1 s")


def test_what_is_missing_is_skipped_and_said(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "sanitizer", lambda: None)
    watched = gpu_check.run(step(gpu_check, "pass", tool="memcheck"), "abc")
    monkeypatch.setattr(gpu_check, "seen_gpus", lambda: (0, ""))
    alone = gpu_check.run(step(gpu_check, "pass"), "abc")

    assert (watched.outcome, "pip install dynamoc[sanitizer]" in watched.why) == ("skipped", True)
    assert (alone.outcome, alone.why) == ("skipped", "0 GPUs, not 1")


def test_a_tool_stands_before_the_command(gpu_check: ModuleType) -> None:
    words = gpu_check.watched(["python", "-m", "pytest"], "racecheck", Path("/opt/compute-sanitizer"))

    assert words[:3] == ["/opt/compute-sanitizer", "--tool", "racecheck"]
    assert words[-3:] == ["python", "-m", "pytest"]


def test_outcomes_are_kept_and_targets_shown(gpu_check: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "gpu_check.json"
    outcomes = {"kernels": gpu_check.Outcome("kernels", "passed", "", 1.0, "abc", "now")}
    gpu_check.keep(path, outcomes)
    assert gpu_check.kept(path) == outcomes
    assert "kernels" in gpu_check.table(outcomes)
    assert [gpu_check.passed_at(now, outcomes) for now in ("abc", "abc+", "def")] == [{"kernels"}, set(), set()]

    rows = [
        {"figure": "a rate", "ours": 360.0, "unit": "GB/s", "target": 350},
        {"figure": "a time", "ours": 3.6, "unit": "ms", "target": 3.5},
        {"figure": "no target", "ours": 1.0, "unit": "ms", "target": None},
    ]
    (tmp_path / "some_cuda.json").write_text(json.dumps(rows))
    lines = gpu_check.targets().splitlines()
    assert [line.endswith("met") for line in lines] == [True, False]
    assert lines[1].endswith("missed by 0.1")


@pytest.mark.skipif(has_gpus(), reason="there are GPUs")
def test_without_a_gpu_a_benchmark_says_so() -> None:
    words = [sys.executable, str(BENCHMARKS / "transport_cuda.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 77
    assert done.stderr.startswith("skipped: ")
