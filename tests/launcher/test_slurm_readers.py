"""The seam of Slurm's readers: both say the same of the same nodes and jobs, recorded as tools and library show them.

The library was not run against a live controller here: its objects are recorded as plain data, by the names that
version 25.11 has for their attributes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dynamoc.launcher.discovery import DiscoveryError, Machine, Queue
from dynamoc.launcher.slurm.readers import CommandLine, Library, Reader, choose_reader
from dynamoc.launcher.slurm.tools import Job, SlurmError

MIB = 2**20
# ruff: noqa: E501
SCONTROL_NODES = """\
NodeName=gpu0 CPUEfctv=110 CPUTot=112 AvailableFeatures=ib Gres=gpu:h200:8(S:0) RealMemory=2063000 State=IDLE TmpDisk=7000
NodeName=gpu1 CPUEfctv=110 CPUTot=112 AvailableFeatures=ib Gres=gpu:h200:8(S:0) RealMemory=2063000 State=MIXED+DRAIN TmpDisk=7000
NodeName=old CPUTot=64 AvailableFeatures=ib,a100 Gres=gpu:4 RealMemory=1024000 State=ALLOCATED TmpDisk=0
NodeName=login CPUTot=32 AvailableFeatures=(null) Gres=(null) RealMemory=128000 State=IDLE TmpDisk=0
"""
SINFO = "gpu|1-00:00:00|1-16\ndebug|30:00|1-2\nlong|infinite|1-infinite\n"
SCONTROL_JOBS = {
    "7": "JobId=7 JobName=a JobState=RUNNING Reason=None Restarts=2 ExitCode=0:0 NodeList=gpu[0-1] NumNodes=2",
    "8": "JobId=8 JobName=b JobState=PENDING Reason=Resources ExitCode=0:0 NodeList= NumNodes=2",
    "9": "JobId=9 JobName=c JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0 NodeList=gpu0 NumNodes=1",
}


def node(name: str, cpus: int, effective: int, memory: int, gres: dict[str, int], state: str, **more: Any) -> Any:
    data = {"total_cpus": cpus, "effective_cpus": effective, "real_memory": memory, "configured_gres": gres}
    return SimpleNamespace(
        name=name, state=state, **data, **({"available_features": [], "temporary_disk": None} | more)
    )


LIBRARY_NODES = [
    node("gpu0", 112, 110, 2063000, {"gpu:h200": 8}, "IDLE", available_features=["ib"], temporary_disk=7000),
    node("gpu1", 112, 110, 2063000, {"gpu:h200": 8}, "MIXED+DRAIN", available_features=["ib"], temporary_disk=7000),
    node("old", 64, 0, 1024000, {"gpu": 4}, "ALLOCATED", available_features=["ib", "a100"]),
    node("login", 32, 0, 128000, {}, "IDLE"),
]
LIBRARY_PARTITIONS = {
    "gpu": SimpleNamespace(max_time=1440, max_nodes=16),
    "debug": SimpleNamespace(max_time=30, max_nodes=2),
    "long": SimpleNamespace(max_time="UNLIMITED", max_nodes="UNLIMITED"),
}
LIBRARY_JOBS = {
    7: {"state": "RUNNING", "state_reason": "None", "allocated_nodes": "gpu[0-1]", "requeue_count": 2},
    8: {"state": "PENDING", "state_reason": "Resources", "allocated_nodes": None},
    9: {"state": "FAILED", "state_reason": "NonZeroExitCode", "allocated_nodes": "gpu0", "exit_code": 2},
}


class RPCError(Exception):
    """What the library raises."""


def recorded_library(tools: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Its answers as data; where it knows no job, the tools are asked."""
    tools_on_path(tools, monkeypatch)

    def load(job: int) -> Any:
        if job not in LIBRARY_JOBS:
            raise RPCError("Invalid job id specified")
        return SimpleNamespace(**({"exit_code": 0, "exit_code_signal": 0, "requeue_count": 0} | LIBRARY_JOBS[job]))

    library = ModuleType("pyslurm")
    library.__dict__.update(
        __version__="25.11.2",
        RPCError=RPCError,
        Nodes=SimpleNamespace(load=lambda: {n.name: n for n in LIBRARY_NODES}),
        Partitions=SimpleNamespace(load=lambda: LIBRARY_PARTITIONS),
        Job=SimpleNamespace(load=load),
    )
    return Library(library)


def tools_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Programs that print what the real ones printed."""
    jobs = "".join(f"{number}) echo '{text}';;\n" for number, text in SCONTROL_JOBS.items())
    scontrol = f"""case "$*" in
--version) echo slurm-wlm 22.05.8;;
"show node"*) cat <<'END'
{SCONTROL_NODES}END
;;
*) case "${{@: -1}}" in
{jobs}*) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1;; esac;;
esac"""
    programs = {"scontrol": scontrol, "sinfo": f"printf '%s' '{SINFO}'", "sacct": "echo 'no accounting' >&2; exit 1"}
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return CommandLine()


@pytest.fixture(params=[tools_on_path, recorded_library], ids=["tools", "library"])
def reader(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    make: Callable[[Path, pytest.MonkeyPatch], Reader] = request.param
    return make(tmp_path, monkeypatch)


def test_nodes_are_what_slurm_has(reader: Reader) -> None:
    found = reader.findings()

    assert found.machines == (
        Machine("gpu0", 110, 2063000 * MIB, 8, "h200", gres="h200", disk_bytes=7000 * MIB),
        Machine("old", 64, 1024000 * MIB, 4, "a100"),
        Machine("login", 32, 128000 * MIB),
    )
    assert found.left_out == ("left out as down or drained: gpu1",)


def test_partitions_have_their_limits(reader: Reader) -> None:
    queues = {queue.name: queue for queue in reader.findings().queues}

    assert queues["gpu"].max_time in ("24:00:00", "1-00:00:00")
    assert queues["gpu"].max_nodes == 16
    assert queues["debug"] == Queue("debug", "0:30:00", 2)
    assert queues["long"] == Queue("long")


def test_jobs_are_what_slurm_has(reader: Reader) -> None:
    assert reader.job("7") == Job("7", "RUNNING", nodes="gpu[0-1]", restarts=2)
    assert reader.job("8") == Job("8", "PENDING", reason="Resources")
    assert reader.job("9") == Job("9", "FAILED", reason="NonZeroExitCode", exit_code="2:0", nodes="gpu0")
    assert reader.job("10") is None


def test_a_controller_that_is_away_is_said_by_the_library() -> None:
    def away(*_: object) -> None:
        raise RPCError("Unable to contact slurm controller")

    loads = SimpleNamespace(load=away)
    library = Library(SimpleNamespace(RPCError=RPCError, Nodes=loads, Partitions=loads, Job=loads))

    with pytest.raises(DiscoveryError, match="Unable to contact"):
        library.findings()
    with pytest.raises(SlurmError, match="Unable to contact"):
        library.job("7")


@pytest.mark.parametrize(
    ("source", "kind", "why"),
    [
        (None, CommandLine, "pyslurm is not installed"),
        ("raise ImportError('libslurm.so.44: cannot open')", CommandLine, "pyslurm cannot be loaded: libslurm.so.44"),
        ("__version__ = '25.11.2'", CommandLine, "pyslurm is of Slurm 25.11, the site has 22.05"),
        ("__version__ = '22.5.3'", Library, "pyslurm 22.5.3"),
    ],
    ids=["absent", "broken", "other release", "same release"],
)
def test_the_library_is_used_only_for_the_sites_release(
    source: str | None, kind: type, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools_on_path(tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "pyslurm", raising=False)
    if source is not None:
        (tmp_path / "pyslurm.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
    found, said = choose_reader()
    monkeypatch.delitem(sys.modules, "pyslurm", raising=False)

    assert isinstance(found, kind)
    assert said.startswith(why)
