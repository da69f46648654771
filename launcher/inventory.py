"""What this machine has, as a cluster of one node, and what a scheduler says of its nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from msgspec.structs import replace

from dynamoc.compiler.cluster import Cluster, Node, digest_of
from dynamoc.launcher.discovery import Findings, Machine
from dynamoc.launcher.programs import ask

QUERY_DEADLINE_S = 10.0
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # its size is asked for; nothing is written


def local_cluster() -> Cluster:
    """CPUs this process may use, memory it may have, and the GPUs that nvidia-smi lists, if it is there."""
    found = find_local()
    machine = found.machines[0]
    node = Node(
        "localhost",
        machine.cpus,
        machine.memory_bytes,
        machine.gpus,
        machine.gpu_kind,
        machine.gpu_memory_bytes,
        shm_bytes=machine.shm_bytes,
    )
    cluster = Cluster("local", (node,), provenance=found.provenance)
    return replace(cluster, digest=digest_of(cluster))


def find_local() -> Findings:
    """This machine."""
    gpus, gpu_source = _gpus()
    kind, memory = gpus[0] if gpus else (None, 0)
    machine = Machine(
        host=os.uname().nodename,
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        gpus=len(gpus),
        gpu_kind=kind,
        gpu_memory_bytes=memory,
        shm_bytes=_shm_bytes(),
    )
    return Findings("local", (machine,), f"this machine: CPU affinity, memory limit, {gpu_source}")


def find_slurm() -> Findings:
    """What Slurm lists; DiscoveryError where it is not there or does not answer."""
    from dynamoc.launcher.slurm.readers import choose_reader

    reader, why = choose_reader()
    found = reader.findings()
    return replace(found, provenance=f"{found.provenance} ({why})")


def find_kubernetes() -> Findings:
    """What Kubernetes lists; DiscoveryError where it is not there or does not answer."""
    from dynamoc.launcher import k8s_inventory

    return k8s_inventory.read_kubernetes(ask(k8s_inventory.NODE_WORDS))


def _memory_bytes() -> int:
    """Physical memory, or the limit of the control group where that is lower."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))


def _shm_bytes() -> int:
    """Size of /dev/shm; 0 where there is none."""
    if not SHARED_MEMORY.is_dir():
        return 0
    facts = os.statvfs(SHARED_MEMORY)
    return facts.f_frsize * facts.f_blocks


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
    return read_nvidia_smi(answer), "nvidia-smi"


def read_nvidia_smi(answer: str) -> list[tuple[str, int]]:
    """Name and bytes of each GPU in the CSV of nvidia-smi."""
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if line.count(",")]
    return [(name.strip(), int(mib) * 2**20) for name, mib in rows if mib.strip().isdigit()]
