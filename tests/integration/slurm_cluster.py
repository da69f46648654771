"""A real Slurm cluster for tests, and `dynamoc` used on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "support/slurm/cluster"
WANTED = "DYNAMOC_SLURM_TESTS"
"""Set by `make slurm-test`: packages are installed, and a cluster that cannot be had is an error."""


@dataclass
class SlurmCluster:
    """Where its clients find it; `folder` is where runs go."""

    conf: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "DYNAMOC_"))}
        return {**kept, "SLURM_CONF": self.conf}

    def call(self, *words: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def dynamoc(self, *words: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "dynamoc", *words, limit_s=limit_s)

    def run_folder(self) -> Path:
        return (self.folder / "runs/latest").resolve()

    def job_ids(self) -> list[str]:
        return sorted(self.call("squeue", "--noheader", "--states=all", "--format=%A").stdout.split())

    def field(self, job: str, name: str) -> str:
        words = self.call("scontrol", "show", "job", "--oneliner", job).stdout.split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the agents of the latest run last wrote."""
        files = self.run_folder().glob("status*.json")
        return {name: p for file in files for name, p in json.loads(file.read_text())["processes"].items()}

    def wait_ready(self, limit_s: float = 60.0) -> None:
        planned = len(json.loads((self.run_folder() / "plan.json").read_text())["processes"])
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            states = [process["state"] for process in self.processes().values()]
            if states == ["ready"] * planned:
                return
            time.sleep(0.2)
        logs = "".join(path.read_text() for path in self.run_folder().glob("slurm-*.log"))
        raise AssertionError(f"not ready within {limit_s} s: {self.processes()}\n{logs}")

    def strays(self) -> list[str]:
        """Living processes of the latest run."""
        mark = f"DYNAMOC_RUN_DIR={self.run_folder()}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "comm").read_text().strip())
        return found


@contextlib.contextmanager
def slurm_cluster(folder: Path, nodes: int, gpus: int = 0, *more: int) -> Iterator[SlurmCluster]:
    """Up for a block; skipped where Slurm is not installed or this user is not root, unless it was asked for.

    `more` pairs of nodes and GPUs are further kinds of node.
    """
    wanted = WANTED in os.environ
    if not wanted and (os.getuid() != 0 or shutil.which("sbatch") is None):
        pytest.skip("needs root and Slurm: run `make slurm-test`")
    environment = {**os.environ, "SLURM_TEST_DIR": f"/tmp/slurm-test-{os.getpid()}-{nodes}"}
    up = subprocess.run(
        [SCRIPT, "up", *map(str, (nodes, gpus, *more))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    try:
        if up.returncode and not wanted:
            pytest.skip(f"no cluster here: {up.stderr.strip()}")
        assert up.returncode == 0, up.stderr
        yield SlurmCluster(up.stdout.strip(), folder)
    finally:
        subprocess.run([SCRIPT, "down"], env=environment, check=True, timeout=60)
