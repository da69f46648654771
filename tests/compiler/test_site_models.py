"""Models by the names of recipes, in the folders of a site."""

from __future__ import annotations

from pathlib import Path

import pytest
from generators import texts
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.launcher.reading import model_library
from dynamoc.runtime.manifest import decode_manifest

SPEC = """
dynamoc: 1
name: named
model: {{{model}}}
defaults: {{engine: mocker, device: cpu, context_length: 256, kv_blocks: 64}}
components:
  frontend: {{role: frontend}}
  router: {{role: router}}
  worker: {{role: aggregated}}
edges: [frontend -> router -> worker]
"""
CLUSTER = """
name: site
nodes: [{{name: node, cpus: 8, memory: 8 GiB}}]
site: {{container: pyxis, image: /images/one.sqsh, models: {models}}}
"""
FOLDERS = "{team/dsr1: /shared/models/r1, small: ~/models/small}"


def compiled(model: str, models: str = FOLDERS) -> dict[str, str]:
    cluster = read_cluster(read_source(CLUSTER.format(models=models), "cluster.yaml"))
    return texts(
        compile_spec(read_source(SPEC.format(model=model), "spec.yaml"), cluster, load_target("slurm"), cards())
    )


@pytest.mark.parametrize(
    ("model", "ref", "folder"),
    [
        ("ref: team/dsr1", "team/dsr1", "/shared/models/r1"),
        ("path: small", "small", "~/models/small"),
        ("ref: other/model, path: small", "other/model", "~/models/small"),
        ("ref: other/model", "other/model", None),
        ("path: /elsewhere/r1", "r1", "/elsewhere/r1"),
    ],
)
def test_a_model_is_where_the_site_has_it(model: str, ref: str, folder: str | None) -> None:
    found = compiled(model)
    manifest = decode_manifest(found["plan.json"])
    script = found["emitted/job.sbatch"]

    assert (manifest.model.ref, manifest.model.path) == (ref, folder)
    assert manifest.model_folder() == Path(folder or "~/.cache/dynamoc/models/other/model").expanduser()
    if folder is not None:
        mounted = f'"$HOME"{folder.removeprefix("~")}' if folder.startswith("~") else folder
        assert f'model_folders=("$DYNAMOC_MODEL_ROOT" {mounted})' in script


def test_the_resolved_spec_compiles_to_the_same_plan() -> None:
    found = compiled("ref: team/dsr1")
    cluster = read_cluster(read_source(CLUSTER.format(models=FOLDERS), "cluster.yaml"))
    again = compile_spec(read_source(found["resolved.yaml"], "resolved.yaml"), cluster, load_target("slurm"), cards())

    assert texts(again)["plan.json"] == found["plan.json"]


def test_a_folder_that_depends_on_where_one_stands_is_refused() -> None:
    with pytest.raises(CompileError):
        compiled("ref: team/dsr1", "{team/dsr1: models/r1}")


def test_what_is_known_of_the_model_is_read_in_that_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = read_source(SPEC.format(model="ref: team/dsr1"), "spec.yaml")
    library = model_library(source, "/nowhere", {"team/dsr1": str(tmp_path)})

    assert library.texts == {str(tmp_path): "{}", "team/dsr1": "{}"}
