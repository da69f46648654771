"""A real Slurm controller takes the job of every public recipe that the rules accept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from slurm_corpus import check_scripts, compile_all, put_to_slurm

FOLDER = os.environ.get("DYNAMOC_CORPUS")


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.skipif(FOLDER is None, reason="DYNAMOC_CORPUS names no folder of recipes")
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("sbatch") is None, reason="needs root and Slurm")
def test_slurm_takes_the_job_of_every_recipe(tmp_path: Path) -> None:
    assert FOLDER is not None
    answers = compile_all(Path(FOLDER))
    check_scripts(answers, tmp_path / "scripts")
    put_to_slurm(answers, tmp_path / "cluster")
    print(answers)

    assert answers.refused == {}
    assert answers.unclean == []
    assert answers.taken == len(answers.scripts) > 10
    assert answers.proved > 100
