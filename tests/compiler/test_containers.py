"""Which image a node runs in, how images are named for enroot and Apptainer, and the lines of a job that say so."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from generators import texts
from proving import cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.containers import Image, image_name, images
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import build_plan, compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

DIGEST = "ab" * 32
SPEC: dict[str, Any] = {
    "dynamoc": 1,
    "name": "contained",
    "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "defaults": {"engine": "vllm", "version": "0.24.0", "context_length": 256},
    "components": {
        "frontend": {"role": "frontend", "port": 8000},
        "router": {"role": "router"},
        "prefill": {"role": "prefill", "nodes": 1, "image": "one:1"},
        "decode": {"role": "decode", "nodes": 1, "image": "two:2"},
    },
    "edges": ["frontend -> router -> prefill -> decode"],
}
NODES = [{"name": "gpu", "count": 2, "cpus": 32, "memory": "256 GiB", "gpus": {"count": 1, "kind": "H100"}}]


def sources(site: dict[str, Any], **edits: Any) -> tuple[Any, Any]:
    cluster = read_cluster(read_source(yaml.safe_dump({"name": "site", "nodes": NODES, "site": site}), "cluster.yaml"))
    return read_source(yaml.safe_dump({**SPEC, **edits}, sort_keys=False), "spec.yaml"), cluster


def job(site: dict[str, Any], **edits: Any) -> str:
    spec, cluster = sources(site, **edits)
    return texts(compile_spec(spec, cluster, load_target("slurm"), cards()))["emitted/job.sbatch"]


def plan_at(site: dict[str, Any], **edits: Any) -> Any:
    spec, cluster = sources(site, **edits)
    return build_plan(spec, cluster, cards(), load_target("slurm"))


@pytest.mark.parametrize(
    ("written", "runtime", "expected"),
    [
        ("vllm/vllm-openai:v0.24.0", "pyxis", ("vllm+vllm-openai+v0.24.0.sqsh", "docker://vllm/vllm-openai:v0.24.0")),
        ("nvcr.io/nvidia/x:1", "pyxis", ("nvcr.io+nvidia+x+1.sqsh", "docker://nvcr.io#nvidia/x:1")),
        ("nvcr.io#nvidia/x:1", "pyxis", ("nvcr.io+nvidia+x+1.sqsh", "docker://nvcr.io#nvidia/x:1")),
        ("host:5000/x", "pyxis", ("host+5000+x.sqsh", "docker://host:5000#x")),
        (f"nvcr.io/x:1@sha256:{DIGEST}", "pyxis", (f"{DIGEST}.sqsh", f"docker://nvcr.io#x:sha256:{DIGEST}")),
        (f"host:5000/x@sha256:{DIGEST}", "pyxis", (f"{DIGEST}.sqsh", f"docker://host:5000#x:sha256:{DIGEST}")),
        (f"nvcr.io/x:1@sha256:{DIGEST}", "apptainer", (f"{DIGEST}.sif", f"docker://nvcr.io/x@sha256:{DIGEST}")),
        ("nvcr.io#nvidia/x:1", "apptainer", ("nvcr.io+nvidia+x+1.sif", "docker://nvcr.io/nvidia/x:1")),
    ],
)
def test_an_image_is_named_as_its_tool_wants_it(written: str, runtime: str, expected: tuple[str, str]) -> None:
    plan, _ = plan_at({"container": runtime, "image_cache": "/cache/"})

    assert images(plan, [written]) == (Image(f"/cache/{expected[0]}", expected[1]),)


def test_a_name_of_the_site_may_be_a_file() -> None:
    plan, _ = plan_at({"container": "pyxis", "images": {"one:1": "/images/one.sqsh", "two:2": "other:2"}})

    assert images(plan, ["one:1"]) == (Image("/images/one.sqsh"),)
    assert images(plan, ["two:2"])[0].source == "docker://other:2"


def test_nodes_have_images_of_their_own() -> None:
    plan, warnings = plan_at({"container": "pyxis"})

    assert sorted(image_name(plan, node) or "" for node in range(2)) == ["one:1", "two:2"]
    assert warnings == ()
    script = job({"container": "pyxis"})
    assert script.count("import-image.sh") == 2
    assert "image_of=(0 1)" in script


def test_a_node_without_one_takes_that_of_the_site_or_the_only_one() -> None:
    echo = {"engine": "echo", "device": "cuda"}
    components = {**SPEC["components"], "prefill": {"role": "prefill"}, "decode": {"role": "decode"}}
    edits: dict[str, Any] = {"defaults": {**echo, "context_length": 64}, "components": components}
    plan, _ = plan_at({"container": "pyxis", "image": "site:1"}, **edits)

    assert image_name(plan, 0) == "site:1"
    with pytest.raises(CompileError, match="nothing says which image"):
        plan_at({"container": "pyxis"}, **edits)


def test_an_image_that_nothing_starts_is_said_once_each() -> None:
    _, warnings = plan_at({})

    assert [warning.code for warning in warnings] == ["D406", "D406"]


def test_steps_of_pyxis_are_told_image_mounts_and_no_home() -> None:
    script = job({"container": "pyxis", "mounts": ["/data:/data:ro", "~/hf:/root/hf"], "runtime": "archive"})

    assert '"$HOME"/hf:/root/hf' in script
    assert "--no-container-mount-home" in script
    assert 'mounts=("$run:$run" "$runtime:$runtime:ro" /data:/data:ro' in script
    agent = next(line for line in script.splitlines() if "--nodelist" in line and "${names[node]}" in line)
    assert '"${inside[@]}"' in agent


def test_steps_of_apptainer_run_it_on_the_host() -> None:
    script = job({"container": "apptainer", "python": "/opt/py thon"})

    assert "python=('/opt/py thon')" in script
    assert "apptainer exec --nv --no-home" in script
    assert "inside" not in script


@pytest.mark.parametrize("container", ["pyxis", "apptainer"])
def test_the_scripts_of_containers_are_clean(container: str, tmp_path: Any) -> None:
    import subprocess
    import sys
    from pathlib import Path

    spec, cluster = sources({"container": container, "runtime": "archive", "mounts": ["/a b:/c d"], "image": "$(id)"})
    files = texts(compile_spec(spec, cluster, load_target("slurm"), cards()))
    scripts = [name for name in files if name.startswith("emitted/")]
    for name in scripts:
        (tmp_path / Path(name).name).write_text(files[name])

    assert sorted(scripts) == [f"emitted/{name}" for name in ("import-image.sh", "job.sbatch", "unpack.sh")]
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True, timeout=30)
    subprocess.run([Path(sys.executable).with_name("shellcheck"), *paths], check=True, timeout=60)
