"""Pictures: every component and edge is there, and the same plan gives the same picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from generators import Case, cases
from hypothesis import given, settings
from proving import ROOT, cards

from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.drawing import FILL, to_dot, to_mermaid, to_svg
from dynamoc.compiler.pipeline import build_plan
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.source import read_source
from dynamoc.launcher.cli import root
from dynamoc.runtime.manifest import Role

SVG = "{http://www.w3.org/2000/svg}"
FOLDER = ROOT / "tests/golden/compile/two-pools"


def two_pools() -> Plan:
    cluster = read_cluster(read_source((FOLDER / "cluster.yaml").read_text(), "cluster.yaml"))
    plan, _ = build_plan(read_source((FOLDER / "spec.yaml").read_text(), "spec.yaml"), cluster, cards())
    return plan


def test_the_picture_shows_components_edges_and_transports() -> None:
    plan = two_pools()
    tree = ET.fromstring(to_svg(plan))
    groups = [group.get("class") for group in tree.iter(f"{SVG}g")]
    words = [(text.text or "").strip() for text in tree.iter(f"{SVG}text")]

    assert groups.count("node") == len(plan.graph.components)
    assert groups.count("edge") == len(plan.graph.edges)
    assert words.count("KV · tcp") == 2
    assert "decode × 2" in words
    assert "mocker · 8 GPUs" in words


def test_text_is_not_drawn_outside_its_box() -> None:
    """Boxes are sized without fonts: the estimate must leave room for common ones (0.57 em a letter, DejaVu's)."""
    tree = ET.fromstring(to_svg(two_pools()))
    for group in tree.iter(f"{SVG}g"):
        if group.get("class") == "node":
            shape = next(group.iter(f"{SVG}path"))
            xs = [float(pair.split(",")[0]) for pair in shape.get("d", "").replace("M", " ").replace("C", " ").split()]
            for text in group.iter(f"{SVG}text"):
                half = len(text.text or "") * float(text.get("font-size", "12")) * 0.57 / 2
                middle = float(text.get("x", "0"))

                assert min(xs) <= middle - half
                assert middle + half <= max(xs)


def test_every_role_has_its_own_colour() -> None:
    assert len({FILL[role] for role in Role}) == len(Role)


@settings(max_examples=15, deadline=None)
@given(cases())
def test_every_plan_can_be_drawn(case: Case) -> None:
    plan, _ = build_plan(read_source(case.text, "spec.yaml"), case.cluster, cards())
    tree = ET.fromstring(to_svg(plan))
    mermaid = to_mermaid(plan).splitlines()

    assert sum(g.get("class") == "node" for g in tree.iter(f"{SVG}g")) == len(plan.graph.components)
    assert len({line for line in mermaid if "[" in line}) == len(plan.graph.components)
    assert to_dot(plan) == to_dot(plan)


@pytest.mark.parametrize(("suffix", "start"), [(".svg", "<?xml"), (".mmd", "flowchart LR"), (".dot", "digraph")])
def test_the_command_writes_the_format_of_the_suffix(suffix: str, start: str, tmp_path: Path) -> None:
    picture = tmp_path / f"picture{suffix}"
    words = ["graph", str(FOLDER / "spec.yaml"), "--cluster", str(FOLDER / "cluster.yaml"), "-o", str(picture)]
    result = CliRunner().invoke(root, words)

    assert result.exit_code == 0, result.output
    assert picture.read_text().startswith(start)
    assert list(tmp_path.iterdir()) == [picture]


def test_a_format_nobody_knows_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["graph", str(FOLDER / "spec.yaml"), "-o", str(tmp_path / "x.png")])

    assert result.exit_code == 2
    assert "none of .svg, .mmd, .dot" in result.output
