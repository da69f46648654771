"""Owners of memory that a test's run has started: processes that outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from dynamoc.runtime.kv.memory_service.place import Place

ENDED_S = 30.0


def owners(run_dir: Path) -> list[int]:
    """Of a run's memory of the host, or of anything if they have the run's mark."""
    found = subprocess.run(["pgrep", "-f", "memory_service --socket"], capture_output=True, check=False)
    socket, mark = bytes(Place(run_dir, "cpu", None).path()), f"DYNAMOC_RUN_DIR={run_dir}".encode()
    processes = map(int, found.stdout.split())
    return [pid for pid in processes if socket in _facts(pid, "cmdline") or mark in _facts(pid, "environ")]


def end_owners(run_dir: Path) -> None:
    """Returns once none of them is left."""
    for pid in owners(run_dir):
        os.kill(pid, signal.SIGTERM)
    wait_for_end(run_dir)


def wait_for_end(run_dir: Path) -> None:
    """Of all of them; AssertionError if one stays."""
    deadline = time.monotonic() + ENDED_S
    while left := owners(run_dir):
        assert time.monotonic() < deadline, f"owners of memory that stay: {left}"
        time.sleep(0.05)


def _facts(pid: int, name: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []
