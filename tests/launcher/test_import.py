from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dynamoc.compiler.source import read_source
from dynamoc.launcher.cli import root

SAMPLES = Path(__file__).parents[1] / "compiler" / "importers" / "samples"
GRID = """
name: grid
model: {path: "hf:a/b", container: c, precision: fp8}
resources: {gpu_type: h100, gpus_per_node: 8, agg_nodes: 1, agg_workers: 1}
backend: {type: vllm, vllm_config: {aggregated: {tensor-parallel-size: "{tp}"}}}
sweep: {tp: [4, 8, 16]}
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(root, ["import", *map(str, words)])


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "recipes" / "grid.yaml"
    path.parent.mkdir()
    path.write_text(GRID)
    return path


def test_without_a_folder_the_spec_is_printed_and_the_rest_accounted_for() -> None:
    result = run(SAMPLES / "srt_v1.yaml")

    assert result.exit_code == 0, result.output
    assert read_source(result.stdout, "spec.yaml").data["name"] == "demo-2p1d"
    assert "not mapped: setup_script\n" in result.stderr
    assert "left out: dynamo.version: dynamoc brings its own runtime" in result.stderr


def test_spec_and_cluster_pass_the_check(tmp_path: Path) -> None:
    result = run(SAMPLES / "srt_v1.yaml", "-o", tmp_path)
    check = CliRunner().invoke(
        root, ["check", str(tmp_path / "spec.yaml"), "--cluster", str(tmp_path / "cluster.yaml")]
    )

    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"spec.yaml", "cluster.yaml"}
    assert check.exit_code == 0, check.output


def test_points_are_folders_of_their_own(grid: Path, tmp_path: Path) -> None:
    first, all_of_them = tmp_path / "one", tmp_path / "all"

    assert "first of 3 points" in run(grid, "-o", first).stderr
    assert run(grid, "-o", all_of_them, "--points").exit_code == 0
    assert (first / "spec.yaml").read_text() == (all_of_them / "0000-tp-4" / "spec.yaml").read_text()
    assert sorted(path.name for path in all_of_them.iterdir()) == ["0000-tp-4", "0001-tp-8", "0002-tp-16"]


def test_verdicts_are_lines_in_a_fixed_order(grid: Path, tmp_path: Path) -> None:
    (grid.parent / "broken.yml").write_text("a: [1")
    (grid.parent / "other.yaml").write_text("a: 1")
    (grid.parent / "readme.md").write_text("no recipe")
    first, second, page = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "page.md"))

    result = run(grid.parent, "--verdicts", first, "--table", page)
    run(grid.parent, "--verdicts", second)
    lines = [json.loads(line) for line in first.read_text().splitlines()]

    assert "5 recipes and points in 3 files: 1 accepted, 2 failed, 1 rejected, 1 warned" in result.output
    assert first.read_bytes() == second.read_bytes()
    assert [(line["file"], line["point"], line["verdict"], line["codes"]) for line in lines] == [
        ("broken.yml", "", "failed", []),
        ("grid.yaml", "tp=4", "warned", ["D309"]),
        ("grid.yaml", "tp=8", "accepted", []),
        ("grid.yaml", "tp=16", "rejected", ["D308"]),
        ("other.yaml", "", "failed", []),
    ]
    assert set(lines[0]) == {
        "file", "point", "verdict", "codes", "gpus_needed", "gpus_allocated", "unmapped", "unchecked", "reasons",
    }  # fmt: skip
    assert "| tp=16 | rejected | 16 of 8 | D308: a worker of `worker` has 16 ranks but 8 GPUs" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{folder}"], 2, "`--verdicts OUT.jsonl` proves what is in it"),
        (["{grid}", "--points"], 2, "`-o DIR`"),
        (["{grid}", "--table", "x.md"], 2, "goes with `--verdicts`"),
        (["{grid}", "--verdicts", "x"], 2, "is not a folder"),
        (["{broken}"], 1, "line 2, column 1"),
        (["{grid}", "-o", "/proc/nowhere"], 2, "cannot be written"),
        (["{folder}", "--verdicts", "/proc/nowhere"], 2, "cannot be written"),
    ],
)
def test_mistakes_are_said(words: list[str], code: int, message: str, grid: Path) -> None:
    broken = grid.with_name("broken.yaml")
    broken.write_text("a: [1")
    result = run(*(word.format(folder=grid.parent, grid=grid, broken=broken) for word in words))

    assert result.exit_code == code
    assert message in result.output
