"""How processes get onto nodes, under a real Slurm: an archive for an interpreter without dynamoc, and containers.

Pyxis, enroot and Apptainer are stand-ins here: they keep the words they were given, check that what is mounted is
there, and start the rest of the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipelines import SMOLLM2
from slurm_cluster import SlurmCluster, slow, slurm_cluster

SPEC = """
dynamoc: 1
name: carried
model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
defaults: {engine: echo, device: cpu, context_length: 256, kv_blocks: 64}
components:
  frontend: {role: frontend, port: 8000}
  router: {role: router}
  prefill: {role: prefill, cpus: 4}
  decode: {role: decode, cpus: 4}
edges: [frontend -> router -> prefill, {from: prefill, to: decode, transport: tcp}]
"""
CLUSTER = """
name: pair
nodes: [{{name: node, count: 2, cpus: 6, memory: 8 GiB}}]
site: {{runtime: archive, python: {python}, scratch: {scratch}{more}}}
"""
TOOLS = {
    "srun": """
words=() mounts='' image=''
for word in "$@"; do
  case $word in
    --container-mounts=*) mounts=${word#*=} ;;
    --container-image=*) image=${word#*=} ;;
    --container-* | --no-container-*) ;;
    *) words+=("$word"); continue ;;
  esac
  printf '%s\\n' "$word" >>"$LOG"
done
if [[ -n $image ]]; then
  [[ -s $image ]] || exit 91
  for mount in ${mounts//,/ }; do [[ -e ${mount%%:*} ]] || exit 92; done
fi
exec "$REAL" "${words[@]}"
""",
    "enroot": """
case $1 in
  import) printf 'squashed %s\\n' "$4" >"$3" ;;
  list) printf 'pyxis_%s\\n' "dynamoc-$SLURM_JOB_ID-0" "dynamoc-$SLURM_JOB_ID-10" "dynamoc-1$SLURM_JOB_ID-0" other ;;
  remove) printf 'removed %s\\n' "${@:3}" >>"$LOG" ;;
esac
""",
    "unsquashfs": 'grep -q squashed "$2"\n',
    "apptainer": """
case $1 in
  pull) printf 'squashed %s\\n' "$3" >"$2"; exit ;;
  inspect) exit ;;
esac
shift
while [[ $1 == --* ]]; do
  printf '%s\\n' "$1" >>"$LOG"
  case $1 in --bind=*) mounts=${1#*=}; for m in ${mounts//,/ }; do [[ -e ${m%%:*} ]] || exit 92; done ;; esac
  shift
done
[[ -s $1 ]] || exit 91
printf 'image %s\\n' "$1" >>"$LOG"
exec "${@:2}"
""",
}

pytestmark = [pytest.mark.integration, pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what dynamoc needs, and not dynamoc."""
    folder = tmp_path_factory.mktemp("bare interpreter") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = subprocess.run([folder / "bin/python", "-c", "import msgspec, dynamoc"], capture_output=True, check=False)
    assert b"No module named 'dynamoc'" in found.stderr
    return folder / "bin/python"


@pytest.fixture
def cluster(shared: SlurmCluster, tmp_path: Path) -> Iterator[SlurmCluster]:
    (tmp_path / "spec.yaml").write_text(SPEC)
    own = SlurmCluster(shared.conf, tmp_path)
    yield own
    own.settle()


def describe(cluster: SlurmCluster, python: Path, more: str = "") -> Path:
    scratch = cluster.folder / "local disk"
    text = CLUSTER.format(python=json.dumps(str(python)), scratch=json.dumps(str(scratch)), more=more)
    (cluster.folder / "cluster.yaml").write_text(text)
    return scratch


def submit(cluster: SlurmCluster, what: str = "spec.yaml") -> str:
    words = [what] if what != "spec.yaml" else [what, "--cluster", "cluster.yaml"]
    done = cluster.dynamoc("submit", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def stand_ins(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Path:
    """First on the path of the job; returns where they keep their words."""
    folder, log = cluster.folder / "bin", cluster.folder / "words"
    folder.mkdir()
    real = cluster.call("which", "srun").stdout.strip()
    for name, body in TOOLS.items():
        (folder / name).write_text(f"#!/bin/bash\nLOG='{log}' REAL='{real}'\n{body}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_nodes_without_dynamoc_get_it_from_the_job(cluster: SlurmCluster, bare: Path) -> None:
    scratch = describe(cluster, bare)
    compiled = cluster.dynamoc("compile", "spec.yaml", "--cluster", "cluster.yaml", "--target", "slurm", "-o", "out")
    job = submit(cluster, "out")
    cluster.wait_ready()
    (root,) = scratch.iterdir()
    (tree,) = root.iterdir()
    frontend = cluster.processes()["frontend-0"]["pid"]
    loaded = Path(f"/proc/{frontend}/environ").read_bytes().decode()
    cancelled = cluster.dynamoc("cancel")

    assert compiled.returncode == 0, compiled.stderr
    assert (cluster.folder / "out/emitted/runtime.sha256").read_text().split()[0] == tree.name
    assert f"sha256:{tree.name}" in (cluster.run_folder() / "lock.yaml").read_text()
    assert f"PYTHONPATH={tree}" in loaded
    assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.field(job, "JobState") == "COMPLETED"
    assert not cluster.strays()


@slow
def test_an_archive_that_was_changed_starts_nothing(cluster: SlurmCluster, bare: Path) -> None:
    describe(cluster, bare)
    cluster.dynamoc("compile", "spec.yaml", "--cluster", "cluster.yaml", "--target", "slurm", "-o", "out")
    with (cluster.folder / "out/emitted/runtime.tar.gz").open("ab") as archive:
        archive.write(b"x")
    submit(cluster, "out")
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert followed.returncode == 1
    assert "is not what was compiled: its digest is another" in followed.stdout
    assert "the runtime cannot be unpacked on every node" in followed.stdout
    assert not cluster.processes()


@slow
@pytest.mark.parametrize("container", ["pyxis", "apptainer"])
def test_steps_run_in_their_image(
    cluster: SlurmCluster, bare: Path, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cluster.folder / "data"
    data.mkdir()
    more = f", container: {container}, image: nvcr.io/team/dynamoc:1, image_cache: {cluster.folder}/images"
    describe(cluster, bare, more + f", mounts: [{json.dumps(f'{data}:/data:ro')}]")
    log = stand_ins(cluster, monkeypatch)
    scratch = cluster.folder / "disk"
    text = (cluster.folder / "cluster.yaml").read_text().replace(str(cluster.folder / "local disk"), str(scratch))
    (cluster.folder / "cluster.yaml").write_text(text)
    job = submit(cluster)
    cluster.wait_ready()
    cancelled = cluster.dynamoc("cancel")
    words = log.read_text().splitlines()
    (image,) = (cluster.folder / "images").glob("*.s*f" if container == "apptainer" else "*.sqsh")

    assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.field(job, "JobState") == "COMPLETED"
    mounted = next(word for word in words if word.startswith(("--container-mounts=", "--bind="))).partition("=")[2]
    assert mounted.split(",")[0] == f"{cluster.run_folder()}:{cluster.run_folder()}"
    assert f"{data}:/data:ro" in mounted.split(",")
    assert any(mount.endswith("models:ro") for mount in mounted.split(","))
    if container == "pyxis":
        assert image.read_text() == "squashed docker://nvcr.io#team/dynamoc:1\n"
        assert words.count(f"--container-image={image}") == 4, "addresses, two agents, and what watches them"
        assert words.count("--no-container-mount-home") == 4
        removed = [word.split()[1] for word in words if word.startswith("removed")]
        assert sorted(set(removed)) == [f"pyxis_dynamoc-{job}-0", f"pyxis_dynamoc-{job}-10"]
    else:
        assert image.read_text() == "squashed docker://nvcr.io/team/dynamoc:1\n"
        assert words.count(f"image {image}") == 5, "addresses on two nodes, two agents, and what watches them"
        assert "--nv" not in words
    assert not cluster.strays()


@slow
def test_a_job_in_containers_is_followed_by_the_next(
    cluster: SlurmCluster, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no `sbatch` in an image: the script of the job submits, outside."""
    load = "load: {isl: 64, osl: 64, concurrency: [1, 2, 4], requests: 24}\n"
    (cluster.folder / "spec.yaml").write_text(SPEC.replace("engine: echo", "engine: mocker") + load)
    more = f", container: apptainer, image: nvcr.io/team/dynamoc:1, image_cache: {cluster.folder}/images"
    describe(cluster, bare, more)
    scratch = cluster.folder / "disk"
    text = (cluster.folder / "cluster.yaml").read_text().replace(str(cluster.folder / "local disk"), str(scratch))
    (cluster.folder / "cluster.yaml").write_text(text)
    stand_ins(cluster, monkeypatch)
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml", "--retry", "1")
    first = done.stdout.split()[-1]
    deadline = time.monotonic() + 60
    while not (cluster.run_folder() / "results/c1.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    cluster.call("scancel", "--batch", "--signal=USR1", first)
    while cluster.field(first, "JobState") in ("RUNNING", "COMPLETING") and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    second = [job for job in cluster.job_ids() if int(job) > int(first)]
    followed = cluster.dynamoc("submit", "--follow", "runs/latest")

    assert cluster.field(first, "ExitCode") == "75:0"
    assert len(second) == 1, "nobody followed the job: it did this itself"
    assert followed.returncode == 0, followed.stdout
    assert {path.stem for path in cluster.run_folder().glob("results/*.json")} == {"c1", "c2", "c4"}


def test_slurm_reads_a_hostile_word_as_it_was_written(cluster: SlurmCluster) -> None:
    word = "a 'b' \"c\" $(touch owned) `touch owned` ${HOME} ; # \\ d"
    site = json.dumps({"directives": {"mail-type": "END", "mail-user": word, "hold": True}})
    nodes = "nodes: [{name: node, count: 2, cpus: 6, memory: 8 GiB}]"
    (cluster.folder / "cluster.yaml").write_text(f"name: pair\n{nodes}\nsite: {site}\n")
    job = submit(cluster)
    shown = cluster.call("scontrol", "show", "job", job).stdout

    assert f"MailUser={word} MailType=END" in " ".join(shown.split())
    assert not (cluster.folder / "owned").exists()


@slow
def test_a_wish_that_slurm_refuses_is_dropped_and_said(cluster: SlurmCluster) -> None:
    """A controller of before 23.11 knows no segments; a later one has no topology here."""
    nodes = "nodes: [{name: node, count: 2, cpus: 6, memory: 8 GiB}]"
    site = "site: {segment: preferred, extra: [--hold]}"
    (cluster.folder / "cluster.yaml").write_text(f"name: pair\n{nodes}\n{site}\n")
    done = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")
    (cluster.folder / "cluster.yaml").write_text(f"name: pair\n{nodes}\n{site.replace('preferred', 'required')}\n")
    required = cluster.dynamoc("submit", "spec.yaml", "--cluster", "cluster.yaml")

    assert done.returncode == 0, done.stderr
    assert "without --segment=1: " in done.stdout
    assert required.returncode == 1
    assert "segment" in required.stderr
