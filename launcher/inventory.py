"""What this machine has, as a cluster of one node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from dynamoc.compiler.cluster import Cluster, Node

QUERY_DEADLINE_S = 10.0
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def local_cluster() -> Cluster:
    """CPUs this process may use, memory it may have, and the GPUs that nvidia-smi lists, if it is there."""
    cpus = len(os.sched_getaffinity(0))
    gpus, gpu_source = _gpus()
    kind, memory = gpus[0] if gpus else (None, 0)
    node = Node("localhost", cpus, _memory_bytes(), len(gpus), kind, memory)
    return Cluster("local", (node,), provenance=f"this machine: CPU affinity, memory limit, {gpu_source}")


def _memory_bytes() -> int:
    """Physical memory, or the limit of the control group where that is lower."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))


def _gpus() -> tuple[list[tuple[str, int]], str]:
    """Kind and memory of every GPU, and how that is known."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no nvidia-smi"
    words = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=QUERY_DEADLINE_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"nvidia-smi failed ({error})"
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if line.count(",")]
    return [(name.strip(), int(mib) * 2**20) for name, mib in rows if mib.strip().isdigit()], "nvidia-smi"
