"""Every script of every job of the recipes in `DYNAMOC_CORPUS`: bash reads it, and shellcheck finds nothing to say.

Jobs are compiled twice, for a site without containers and for one with; scripts that differ only in numbers and names
of the plan are one, so that each form is looked at once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.launcher.verdicts import Library, recipes_in

FOLDER = os.environ.get("DYNAMOC_CORPUS")
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
BATCH = 50
SITES: tuple[dict[str, Any], ...] = ({}, {"container": "pyxis", "image": "site:1", "runtime": "archive"})

pytestmark = pytest.mark.skipif(FOLDER is None, reason="DYNAMOC_CORPUS names no folder of recipes")


def scripts(folder: Path) -> Iterator[str]:
    """Of every recipe and point that all rules accept."""
    library, target = Library(), load_target("slurm")
    for path in recipes_in(folder):
        for imported in read_recipe(path.read_text()):
            cluster = read_cluster(read_source(to_text(imported.cluster), "cluster.yaml"))
            source = read_source(to_text(imported.spec), "spec.yaml")
            for site in SITES:
                at = replace(cluster, site={**cluster.site, **site})
                proof = prove(source, at, library(source.data["model"]), target)
                artifacts = () if proof.plan is None else target.emit(proof.plan)
                yield from (a.text for a in artifacts if a.path.parts[0] == "emitted")


def form(script: str) -> str:
    """The script without its numbers and names: what bash and shellcheck see alike."""
    words = re.sub(r"^#SBATCH.*\n", "", script, flags=re.MULTILINE)
    return re.sub(r"[0-9]+", "0", re.sub(r"(image_of|with_processes|group_of)=\([0-9 ]*\)", r"\1=(0 0)", words))


@pytest.mark.timeout(1800)
def test_every_script_of_the_corpus_is_clean(tmp_path: Path) -> None:
    assert FOLDER is not None
    forms: dict[str, str] = {}
    count = 0
    for script in scripts(Path(FOLDER)):
        count += 1
        forms.setdefault(form(script), script)
    paths = [tmp_path / f"{index}.sh" for index in range(len(forms))]
    for path, script in zip(paths, forms.values(), strict=True):
        path.write_text(script)
        subprocess.run(["/bin/bash", "-n", path], check=True, timeout=30)
    print(f"{count} scripts, {len(forms)} forms")

    assert count > 500
    for first in range(0, len(paths), BATCH):
        batch = paths[first : first + BATCH]
        done = subprocess.run([SHELLCHECK, *batch], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout
