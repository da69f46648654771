"""A campaign as a folder of arrays: the one that is committed, and campaigns that cannot be one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dynamoc.compiler.artifacts import Artifacts, write
from dynamoc.launcher.campaign.folder import campaign_artifacts
from dynamoc.launcher.campaign.opening import open_campaign
from dynamoc.launcher.cli import root
from dynamoc.launcher.reading import Findings
from dynamoc.launcher.slurm.submitted import jobs_in, read_job

SWEEP = Path(__file__).parents[2] / "examples/slurm/r2-s-sweep"
KEPT = ("array.json", "job.sbatch", "load.json", "spec.yaml")
"""What is reviewed; the rest is left out of the repository for its size."""
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
CAMPAIGN = """
dynamoc: 1
campaign: small
base:
  dynamoc: 1
  name: mock
  model: {ref: HuggingFaceTB/SmolLM2-135M-Instruct}
  defaults: {engine: mocker, device: cpu, context_length: 512, kv_blocks: 512}
  components:
    frontend: {role: frontend, port: 8000}
    router: {role: router}
    worker: {role: aggregated}
  edges: [frontend -> router -> worker]
cluster: cluster.yaml
target: slurm
axes:
  defaults.block_size: [16, 32]
loads: [{isl: 64, osl: 16, concurrency: [1, 2]}]
"""
CLUSTER = "name: cpus\nnodes: [{name: node, count: 2, cpus: 8, memory: 8 GiB}]\n"


@pytest.fixture(scope="module")
def sweep() -> Artifacts:
    return campaign_artifacts(open_campaign(SWEEP / "campaign.yaml", Findings()))


def test_the_sweep_is_the_one_on_record(sweep: Artifacts, golden: Any) -> None:
    kept = [artifact for artifact in sweep if artifact.path.name in KEPT]
    for artifact in kept:
        golden.check(SWEEP / "slurm" / artifact.path, artifact.text)

    on_record = {str(p.relative_to(SWEEP / "slurm")) for p in (SWEEP / "slurm").rglob("*") if p.is_file()}
    assert {str(artifact.path) for artifact in kept} == on_record


def test_every_point_is_in_one_array_and_every_script_is_clean(sweep: Artifacts, tmp_path: Path) -> None:
    write(sweep, tmp_path)
    arrays = sorted(tmp_path.glob("array-*"))
    scripts = [array / "emitted/job.sbatch" for array in arrays]
    points = [point for array in arrays for point in (array / "points").iterdir()]

    assert len(points) == 18
    assert all((point / "plan.json").is_file() and (point / "load.json").is_file() for point in points)
    subprocess.run([SHELLCHECK, *scripts], check=True, timeout=60)
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True, timeout=10)


def test_a_compiled_campaign_is_read_again_as_it_was_written(sweep: Artifacts, tmp_path: Path) -> None:
    write(sweep, tmp_path)
    jobs = jobs_in(tmp_path)
    read = {
        (job.relative_to(tmp_path) / artifact.path, artifact.text, artifact.mode)
        for job in jobs
        for artifact in read_job(job)[0]
    }

    assert [job.name for job in jobs] == [f"array-{number}" for number in range(len(jobs))]
    assert read == {(Path(artifact.path), artifact.text, artifact.mode) for artifact in sweep}


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (("target: slurm", "target: local"), [], "write `target: slurm`"),
        (("concurrency: [1, 2]", "search: {max: 8}"), [], "`dynamoc sweep` makes it"),
        (("", ""), ["--cluster", "cluster.yaml"], "`--cluster` goes with a spec"),
        (("", ""), ["--locked"], "`--locked` goes with a spec"),
        (("", ""), ["--target", "local"], "compiled with `--target slurm`"),
    ],
)
def test_a_campaign_that_cannot_be_a_folder_is_refused(
    change: tuple[str, str], words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CAMPAIGN.replace(*change) + ("sla: [ttft_ms@p99 <= 500]\n" if "search" in change[1] else "")
    (tmp_path / "campaign.yaml").write_text(text)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    monkeypatch.chdir(tmp_path)
    given = ["compile", "campaign.yaml", "--target", "slurm", "-o", "out", *words]
    done = CliRunner().invoke(root, given)

    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_points_are_named_by_what_the_axes_gave_them(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    made = campaign_artifacts(open_campaign(tmp_path / "campaign.yaml", Findings()))

    assert sorted({artifact.path.parts[2] for artifact in made if artifact.path.parts[1] == "points"}) == [
        "00-block_size-16",
        "01-block_size-32",
    ]
