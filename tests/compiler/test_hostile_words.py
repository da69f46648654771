"""Words of a spec and of a site stay words: the job script is run by a real bash, with stand-ins for Slurm's tools."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from generators import texts
from proving import cards

from dynamoc.compiler.artifacts import Artifacts, write
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError
from dynamoc.compiler.pipeline import compile_spec
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target

HOSTILE = "a 'b' \"c\" $(touch owned) `touch owned` ${HOME} ; touch owned # \\ d"
SPEC: dict[str, Any] = {
    "dynamoc": 1,
    "name": "hostile",
    "model": {"ref": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "defaults": {"engine": "echo", "device": "cpu", "context_length": 256},
    "components": {
        "frontend": {"role": "frontend", "port": 8000},
        "router": {"role": "router"},
        "worker": {"role": "aggregated"},
    },
    "edges": ["frontend -> router -> worker"],
}
CLUSTER: dict[str, Any] = {
    "name": "site",
    "nodes": [{"name": "cpu", "count": 1, "cpus": 8, "memory": "64 GiB"}],
    "site": {"container": "apptainer", "image": "team/a:1", "runtime": "archive"},
}
SPEC_FIELDS: list[tuple[str, ...]] = [
    ("name",),
    ("model", "served_name"),
    ("model", "path"),
    ("components", "worker", "env", "ANYTHING"),
    ("components", "frontend", "image"),
]
SITE_FIELDS: list[tuple[str, ...]] = [
    *(("site", name) for name in ("partition", "account", "qos", "reservation", "mpi", "interface", "python")),
    *(("site", name) for name in ("scratch", "image", "image_cache")),
    *(("site", "directives", name) for name in ("constraint", "exclude", "mem", "mail-user", "time", "gres")),
    ("site", "mounts"),
    ("site", "extra"),
    ("site", "images"),
    ("model_root",),
    ("nodes", "hosts"),
]
SHAPES = {
    "scratch": lambda w: f"/{w}",
    "image_cache": lambda w: f"~/{w}",
    "mounts": lambda w: [f"/{w}:/x"],
    "extra": lambda w: [f"--plugin={w}"],
    "images": lambda w: {"team/a:1": f"/{w}"},
}
TOOLS = {
    "srun": 'case "$*" in *agent.address*) echo node0 127.0.0.1 0 ;; esac\nprintf "%s\\0" "$@" >>"$WORDS"\n',
    "scontrol": "echo node0\n",
    "apptainer": 'printf "%s\\0" "$@" >>"$WORDS"\n[[ $1 != pull ]] || echo image >"$2"\n',
}


def put(data: Any, path: tuple[str, ...], word: str) -> Any:
    """A copy with the word there, in the shape of the field."""
    name, *rest = path
    if name == "nodes":
        return {**data, "nodes": [{**data["nodes"][0], "hosts": [word]}]}
    inner = put(data.get(name, {}), tuple(rest), word) if rest else SHAPES.get(name, str)(word)
    return {**data, name: inner}


def artifacts_of(spec: Any, cluster: Any) -> Artifacts:
    site = read_cluster(read_source(yaml.safe_dump(cluster), "cluster.yaml"))
    source = read_source(yaml.safe_dump(spec, sort_keys=False), "spec.yaml")
    return compile_spec(source, site, load_target("slurm"), cards())


def with_word(path: tuple[str, ...], word: str) -> Artifacts | None:
    """None where the compiler refuses it."""
    try:
        if path in SPEC_FIELDS:
            return artifacts_of(put(SPEC, path, word), CLUSTER)
        return artifacts_of(SPEC, put(CLUSTER, path, word))
    except CompileError:
        return None


def run(folder: Path) -> list[str]:
    """The words that Slurm's and Apptainer's tools were given."""
    tools, words = folder / "tools", folder / "words"
    tools.mkdir()
    words.touch()
    for name, body in TOOLS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}")
        (tools / name).chmod(0o755)
    (folder / "emitted/runtime.sha256").write_text(f"{'0' * 64}  runtime.tar.gz\n")
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(folder),
        "WORDS": str(words),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "node0",
        "SLURM_SUBMIT_DIR": str(folder),
    }
    script = ["/bin/bash", str(folder / "emitted/job.sbatch")]
    subprocess.run(script, cwd=folder, env=environment, capture_output=True, timeout=60, check=False)
    return words.read_text().split("\0")


@pytest.mark.parametrize("path", [*SPEC_FIELDS, *SITE_FIELDS], ids=".".join)
def test_a_hostile_word_is_refused_or_stays_one_word(path: tuple[str, ...], tmp_path: Path) -> None:
    artifacts = with_word(path, HOSTILE)
    if artifacts is None:
        assert path in {("name",), ("components", "frontend", "image"), ("nodes", "hosts")}
        return
    write(artifacts, tmp_path)
    script = texts(artifacts)["emitted/job.sbatch"]
    seen = run(tmp_path)

    subprocess.run(["/bin/bash", "-n", tmp_path / "emitted/job.sbatch"], check=True, timeout=30)
    assert any("dynamoc.runtime" in word for word in seen), "it came as far as its steps"
    assert not list(tmp_path.rglob("owned"))
    if path[0] == "site" and path[-1] not in ("mpi", "image"):
        directives = [shlex.split(line[1:], comments=True) for line in script.splitlines() if "#SBATCH" in line]
        shown = [word for words in directives for word in words] + seen
        assert any(HOSTILE in word.replace("\\\\", "\\") for word in shown)


@pytest.mark.parametrize("path", [*SPEC_FIELDS, *SITE_FIELDS], ids=".".join)
def test_a_line_break_never_leaves_its_field(path: tuple[str, ...], tmp_path: Path) -> None:
    artifacts = with_word(path, "x\n#SBATCH --uid=0\ntouch owned\n")
    if artifacts is None:
        return
    script = texts(artifacts)["emitted/job.sbatch"]
    write(artifacts, tmp_path)
    run(tmp_path)

    assert not re.search(r"^#SBATCH --uid", script, re.MULTILINE)
    assert not list(tmp_path.rglob("owned"))
