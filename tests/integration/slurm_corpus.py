"""Every job of a folder of recipes, put to a real Slurm controller: `python slurm_corpus.py FOLDER` prints counts.

The controller plans for nodes that are not there (`cluster pretend`); nothing is run. Jobs that say the same to Slurm
are asked about once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.importers.registry import read_recipe
from dynamoc.compiler.importers.writing import to_text
from dynamoc.compiler.pipeline import prove
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import load_target
from dynamoc.launcher.verdicts import Library, recipes_in

SCRIPT = Path(__file__).parents[1] / "support/slurm/cluster"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
_NUMBER = re.compile(r"[0-9]+")
NODES, GPUS = 200, 8
"""More than any recipe asks for."""


@dataclass
class Answers:
    """What became of the recipes and points: `refused` is why Slurm would not take a job."""

    proved: int = 0
    not_proved: Counter[str] = field(default_factory=Counter)
    """By the codes of the rules."""
    scripts: dict[str, list[str]] = field(default_factory=dict)
    """Directives, and the recipes whose jobs have them."""
    shapes: dict[str, str] = field(default_factory=dict)
    """Scripts that differ in more than names and numbers, by what they share, each once."""
    unclean: list[str] = field(default_factory=list)
    """What bash or shellcheck says of any."""
    taken: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        heterogeneous = sum("#SBATCH hetjob" in script for script in self.scripts)
        lines = [
            f"{self.proved} jobs compiled, {self.not_proved.total()} refused by rules {dict(self.not_proved)}",
            f"{len(self.scripts)} different questions to Slurm, {heterogeneous} of them of several kinds of nodes",
            f"{self.taken} taken, {len(self.refused)} refused",
            f"{len(self.shapes)} scripts that differ in more than names and numbers, {len(self.unclean)} not clean",
        ]
        return "\n".join(lines + self.unclean + [f"{recipe}: {why}" for recipe, why in self.refused.items()])


def compile_all(folder: Path) -> Answers:
    """The directives of every recipe and point that passes all rules."""
    answers, library, target = Answers(), Library(), load_target("slurm")
    for path in recipes_in(folder):
        for imported in read_recipe(path.read_text()):
            cluster = read_cluster(read_source(to_text(imported.cluster), "cluster.yaml"))
            source = read_source(to_text(imported.spec), "spec.yaml")
            proof = prove(source, cluster, library(source.data["model"]), target)
            if proof.plan is None:
                answers.not_proved[min(d.code for d in proof.diagnostics if d.severity == "error")] += 1
                continue
            answers.proved += 1
            texts = {str(artifact.path): artifact.text for artifact in target.emit(proof.plan)}
            for name, text in texts.items():
                if name.endswith((".sbatch", ".sh")):
                    shared = _NUMBER.sub("N", text.replace(proof.plan.graph.name, "NAME"))
                    answers.shapes.setdefault(shared, text)
            header = "\n".join(line.partition(" # ")[0].rstrip() for line in _header(texts["emitted/job.sbatch"]))
            question = header.replace(f"dynamoc-{proof.plan.graph.name}", "dynamoc")
            answers.scripts.setdefault(question, []).append(path.relative_to(folder).as_posix())
    return answers


def _header(script: str) -> Iterator[str]:
    """Its first lines: sbatch reads no further."""
    for line in script.splitlines():
        if line and not line.startswith("#"):
            return
        if line.startswith(("#!", "#SBATCH")):
            yield line


def check_scripts(answers: Answers, folder: Path) -> None:
    """By `bash -n` and shellcheck, each shape once."""
    folder.mkdir()
    paths = [folder / f"{number}.sh" for number in range(len(answers.shapes))]
    for path, text in zip(paths, answers.shapes.values(), strict=True):
        path.write_text(text)
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(_said_of, paths))
    answers.unclean = [text for text in said if text]


def _said_of(script: Path) -> str:
    words = ["bash", "-n", script], [SHELLCHECK, script]
    done = [subprocess.run(w, capture_output=True, text=True, timeout=120, check=False) for w in words]
    return "".join(one.stdout + one.stderr for one in done)


def put_to_slurm(answers: Answers, state: Path) -> None:
    """Ask `sbatch --test-only` of each; the controller and its folder are gone afterwards."""
    words = {word for script in answers.scripts for word in script.split() if word.startswith("--partition=")}
    partitions = " ".join(sorted(word.partition("=")[2] for word in words))
    environment = {**os.environ, "SLURM_TEST_DIR": str(state), "SLURM_TEST_PARTITIONS": partitions}
    up = [SCRIPT, "pretend", str(NODES), str(GPUS)]
    try:
        done = subprocess.run(up, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"no controller here: {done.stderr}")
        client = {**os.environ, "SLURM_CONF": done.stdout.strip()}
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda script: _ask(script, client), answers.scripts))
    finally:
        subprocess.run([SCRIPT, "down"], env=environment, check=True, timeout=60)
    for (script, recipes), why in zip(answers.scripts.items(), said, strict=True):
        if why:
            answers.refused[recipes[0]] = f"{why}\n{script}"
        else:
            answers.taken += 1


def _ask(script: str, environment: dict[str, str]) -> str:
    """Why Slurm would not take it; nothing if it would."""
    body = f"{script}\ntrue\n"
    done = subprocess.run(
        ["sbatch", "--test-only"], input=body, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def main() -> None:
    """Print the counts for a folder."""
    answers = compile_all(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="slurm-corpus-") as state:
        check_scripts(answers, Path(state) / "scripts")
        put_to_slurm(answers, Path(state) / "cluster")
    print(answers)


if __name__ == "__main__":
    main()
