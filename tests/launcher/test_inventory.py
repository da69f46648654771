"""Inventories from what schedulers say: recorded answers, programs that give them, a real Slurm where there is one."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynamoc.compiler.cluster import Partition
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.source import read_source
from dynamoc.launcher.commands.inventory import command
from dynamoc.launcher.discovery import DiscoveryError, Findings, Machine, cluster_text, with_gpus_named
from dynamoc.launcher.inventory import find_local, read_nvidia_smi
from dynamoc.launcher.k8s_inventory import quantity, read_kubernetes
from dynamoc.launcher.slurm_inventory import read_queues, read_slurm

MIB, GIB = 2**20, 2**30

NODES = """\
NodeName=gpu-a.site Arch=x86_64 CoresPerSocket=56
   CPUAlloc=0 CPUEfctv=110 CPUTot=112 CPULoad=2.76
   AvailableFeatures=h200,nvme
   Gres=gpu:h200:8(S:0-1),shard:h200:80
   RealMemory=2063000 AllocMem=0 FreeMem=17723 Sockets=2 Boards=1
   State=IDLE+CLOUD ThreadsPerCore=1 TmpDisk=7000000 Weight=1 Owner=N/A
   Partitions=gpu,debug

NodeName=gpu-b.site Arch=x86_64 CoresPerSocket=56
   CPUAlloc=0 CPUEfctv=110 CPUTot=112 CPULoad=2.76
   Gres=gpu:h200:8(S:0-1)
   RealMemory=2063000 State=MIXED TmpDisk=7000000 Partitions=gpu

NodeName=gpu-c.site CPUTot=112 Gres=gpu:h200:8 RealMemory=2063000 State=IDLE+DRAIN Partitions=gpu
   Reason=NVLink errors [root@2026-01-01]

NodeName=old CPUTot=64 AvailableFeatures=ib,a100 Gres=gpu:4 RealMemory=1024000 State=ALLOCATED

NodeName=login CPUTot=32 Gres=(null) RealMemory=128000 State=IDLE*
"""
QUEUES = "gpu|1-00:00:00|1-16\ngpu|1-00:00:00|1-16\ndebug|30:00|1-2\nlong|infinite|1-infinite\n"


def cluster_of(findings: Findings):
    return read_cluster(read_source(cluster_text(findings), "found"))


def node_of_kubernetes(name: str, **labels: str) -> dict[str, object]:
    allocatable = {"cpu": "127500m", "memory": "1056763116Ki", "ephemeral-storage": "960197124Ki"}
    if labels:
        allocatable["nvidia.com/gpu"] = "4"
    return {
        "metadata": {"name": name, "labels": {f"nvidia.com/gpu.{key}": value for key, value in labels.items()}},
        "spec": {},
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_slurm_nodes_that_are_alike_become_one_entry() -> None:
    cluster = cluster_of(with_gpus_named(read_slurm(NODES, QUEUES, "site"), None))

    first, second, old, login = cluster.nodes
    assert (first.name, first.host, second.name, second.host) == ("h200-0", "gpu-a.site", "h200-1", "gpu-b.site")
    assert (first.cpus, first.gpus, first.gpu_kind) == (110, 8, "H200")
    assert (first.memory_bytes, first.gpu_memory_bytes) == (2063000 * MIB, 143771 * MIB)
    assert first.disk_bytes == 7000000 * MIB
    assert (old.gpus, old.gpu_kind, old.gpu_memory_bytes) == (4, "A100-80GB-SXM", 81920 * MIB)
    assert (login.gpus, login.cpus) == (0, 32)
    assert "drained: gpu-c.site" in cluster.provenance


def test_slurm_partitions_keep_their_limits() -> None:
    cluster = cluster_of(with_gpus_named(read_slurm(NODES, QUEUES), None))

    assert cluster.partitions == (Partition("gpu", 86400.0, 16), Partition("debug", 1800.0, 2), Partition("long"))
    assert cluster.partition("debug") == cluster.partitions[1]
    assert cluster.partition("none") is None


def test_slurm_speaks_json_and_lines_too() -> None:
    record = {"name": "n0", "cpus": 64, "real_memory": 512000, "gres": "gpu:gb200:4", "temporary_disk": 0}
    nodes = [record | {"state": ["IDLE"], "features": ["x"]}, record | {"name": "n1", "state": "down", "features": ""}]

    found = read_slurm(json.dumps({"nodes": nodes}), "")
    line = read_slurm("NodeName=n0 CPUTot=64 Gres=gpu:gb200:4 RealMemory=512000 State=IDLE\n", "")

    assert found.machines == line.machines == (Machine("n0", 64, 512000 * MIB, 4, "gb200", gres="gb200"),)
    assert found.left_out == ("left out as down or drained: n1",)


@pytest.mark.parametrize("text", ["", "slurm_load_node error", "{", '{"nodes": 3}', '{"jobs": []}'])
def test_what_is_not_slurms_is_refused(text: str) -> None:
    with pytest.raises(DiscoveryError, match="scontrol show node"):
        read_slurm(text, "")


def test_queues_without_a_time_have_no_limit() -> None:
    assert [queue.max_time for queue in read_queues("a|UNLIMITED|1\nb|n/a|1-4\nc|4:00:00|2-2\n")] == [
        None,
        None,
        "4:00:00",
    ]


def test_kubernetes_nodes_with_their_nvlink_domain() -> None:
    labels = {"product": "NVIDIA-GB200", "memory": "189471"}
    items = [node_of_kubernetes(f"tray-{index}", clique=f"rack-{index // 2}", **labels) for index in range(4)]
    cordoned = node_of_kubernetes("away", **labels) | {"spec": {"unschedulable": True}}
    dead = node_of_kubernetes("dead")
    dead["status"]["conditions"][0]["status"] = "Unknown"  # type: ignore[index]
    text = json.dumps({"items": [*items, node_of_kubernetes("system"), cordoned, dead]})

    cluster = cluster_of(with_gpus_named(read_kubernetes(text, "lab"), None))

    assert [node.host for node in cluster.nodes] == ["tray-0", "tray-1", "tray-2", "tray-3", "system"]
    tray = cluster.nodes[0]
    assert (tray.cpus, tray.gpus, tray.gpu_kind, tray.gpu_memory_bytes) == (127, 4, "GB200", 189471 * MIB)
    assert (tray.memory_bytes, tray.disk_bytes) == (1056763116 * 1024, 960197124 * 1024)
    assert cluster.domain_nodes(tray) == 2
    assert cluster.provenance.endswith("left out as not ready or cordoned: away, dead")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"items": [1]}', '{"items": [{"metadata": {}}]}'])
def test_what_is_not_kubernetes_is_refused(text: str) -> None:
    with pytest.raises(DiscoveryError, match="kubectl get nodes"):
        read_kubernetes(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("8", 8), ("127500m", 127.5), ("2Gi", 2 * GIB), ("1500M", 1.5e9), ("1k", 1000), ("1.5Ti", 1.5 * 2**40)],
)
def test_quantities(text: str, number: float) -> None:
    assert quantity(text) == number


def test_a_quantity_is_a_number() -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity("many")


def test_gpus_of_unknown_kind_must_be_named() -> None:
    found = Findings("a", (Machine("n0", 8, GIB, gpus=8, gpu_kind="v900"),), "")

    with pytest.raises(DiscoveryError, match="n0 has GPUs of the kind `v900`, which we do not know: say"):
        with_gpus_named(found, None)
    with pytest.raises(DiscoveryError, match="nothing names"):
        with_gpus_named(Findings("a", (Machine("n0", 8, GIB, gpus=8),), ""), None)
    assert with_gpus_named(found, "h100").machines[0].gpu_memory_bytes == 81559 * MIB


def test_a_kind_we_do_not_know_is_kept_where_its_memory_was_found() -> None:
    found = Findings("a", (Machine("n0", 8, GIB, gpus=2, gpu_kind="V900 9G", gpu_memory_bytes=9 * GIB),), "seen")

    node = cluster_of(with_gpus_named(found, None)).nodes[0]

    assert (node.name, node.gpu_kind, node.gpu_memory_bytes) == ("v900-9g-0", "V900 9G", 9 * GIB)


def test_kinds_of_node_with_the_same_gpu_have_names_of_their_own() -> None:
    machines = tuple(Machine(f"n{cpus}", cpus, GIB) for cpus in (8, 16, 32))

    assert [node.name for node in cluster_of(Findings("a", machines, "seen")).nodes] == ["cpu-0", "cpu-b-0", "cpu-c-0"]


def test_no_node_is_no_inventory() -> None:
    with pytest.raises(DiscoveryError, match="no usable node was found; all are down"):
        cluster_text(Findings("a", (), "", left_out=("all are down",)))


def test_nvidia_smi() -> None:
    answer = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559\n\nstrange line\nX, [N/A]\n"

    assert read_nvidia_smi(answer) == [("NVIDIA H100 80GB HBM3", 81559 * MIB)] * 2


def test_this_machine() -> None:
    machine = find_local().machines[0]

    assert machine.cpus >= 1
    assert machine.memory_bytes > 0


def program(folder: Path, name: str, answer: str, status: int = 0) -> None:
    """A program that gives a recorded answer."""
    (folder / f"{name}.answer").write_text(answer)
    script = folder / name
    script.write_text(f'#!/bin/sh\ncat "{folder}/{name}.answer"\necho "{name} says no" >&2\nexit {status}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def invoke(*words: str):
    return CliRunner().invoke(command, words)


def test_the_command_writes_a_file_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "scontrol", NODES)
    program(tmp_path, "sinfo", QUEUES)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    target = tmp_path / "site.yaml"

    done = invoke("--from", "slurm", "--name", "site", "-o", str(target))

    assert done.exit_code == 0, done.output
    cluster = read_cluster(read_source(target.read_text(), "site.yaml"))
    assert (cluster.name, len(cluster.nodes), sum(node.gpus for node in cluster.nodes)) == ("site", 4, 20)
    assert cluster.digest in done.output
    assert not list(tmp_path.glob(".*.draft"))


def test_the_command_says_why_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "`scontrol` is not on this machine" in invoke("--from", "slurm").output

    program(tmp_path, "kubectl", "", status=1)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    failed = invoke("--from", "k8s")
    assert failed.exit_code == 1
    assert "failed: kubectl says no" in failed.output

    program(tmp_path, "scontrol", NODES.replace("h200", "v900"))
    program(tmp_path, "sinfo", "")
    assert "`v900`, which we do not know" in invoke("--from", "slurm").output
    assert invoke("--from", "slurm", "--gpu", "b200").exit_code == 0


def test_this_machine_as_a_file() -> None:
    text = invoke().output

    assert read_cluster(read_source(text, "local")).nodes[0].cpus == find_local().machines[0].cpus


@pytest.mark.integration
def test_a_real_slurm() -> None:
    sinfo = shutil.which("sinfo")
    if sinfo is None or subprocess.run([sinfo], capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("no Slurm answers on this machine")

    done = invoke("--from", "slurm", "--gpu", "H200")

    assert done.exit_code == 0, done.output
    cluster = read_cluster(read_source(done.output, "slurm"))
    assert cluster.nodes
    assert all(node.host and node.cpus and node.memory_bytes for node in cluster.nodes)
    assert cluster.partitions
