"""A real Slurm cluster for tests, and `dynamoc` used on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
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
slow = pytest.mark.skipif(WANTED not in os.environ, reason="takes a minute: run `make slurm-test`")
END_S = 60.0


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

    def runs(self) -> list[Path]:
        """Every run folder."""
        return [path for path in (self.folder / "runs").glob("*") if not path.is_symlink()]

    def strays(self) -> list[str]:
        """Living processes of any run: those that agents started, and those of the job's script."""
        marks = [f"\0{n}={run}".encode() for run in self.runs() for n in ("DYNAMOC_RUN_DIR", "SLURM_SUBMIT_DIR")]
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                said = b"\0" + (path / "environ").read_bytes()
                if any(mark in said for mark in marks):
                    found.append((path / "comm").read_text().strip())
        return found

    def jobs_by_comment(self) -> dict[str, set[str]]:
        """Jobs that Slurm has had of any run, by the comment each was submitted with; an array is one."""
        found: dict[str, set[str]] = {}
        names = {run.name for run in self.runs()}
        for line in self.call("squeue", "--noheader", "--states=all", "--format=%i|%k").stdout.splitlines():
            job, _, comment = line.strip().partition("|")
            if comment.removeprefix("dynamoc:").partition("/")[0] in names and not re.search(r"\+[1-9]", job):
                found.setdefault(comment, set()).add(re.split(r"[+_]", job)[0])
        return found

    def settle(self) -> None:
        """End what is left; then nothing may live, and no job may be there twice, or without a receipt."""
        self.call("scancel", "--user=root")
        deadline = time.monotonic() + END_S
        while self.call("squeue", "--noheader").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        while self.strays() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not self.strays()
        jobs = self.jobs_by_comment()
        assert all(len(found) == 1 for found in jobs.values()), jobs
        lines = [line for run in self.runs() for line in _lines(run / "receipts.jsonl")]
        receipts = {line["job"] for line in lines if line["what"] == "submitted"}
        assert {job for found in jobs.values() for job in found} == receipts


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


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
