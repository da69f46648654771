"""The driver: order, where it stops, and that a broken pass is our bug."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from proving import LAPTOP, ROOT, cards

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.cluster_spec import read_cluster
from dynamoc.compiler.diagnostics import CompileError, Reporter
from dynamoc.compiler.graph import Graph
from dynamoc.compiler.lower import lower
from dynamoc.compiler.pipeline import GRAPH_PASSES, build_plan, compile_spec, plan_graph, run
from dynamoc.compiler.plan import Plan
from dynamoc.compiler.source import read_source
from dynamoc.compiler.target import TARGETS, UnknownTargetError, load_target
from dynamoc.compiler.verify import ViolationError, verify_graph, verify_plan

QUICKSTART = (ROOT / "specs/graphs/quickstart.yaml").read_text()


def laptop() -> Cluster:
    return read_cluster(read_source(LAPTOP, "laptop.yaml"))


def quickstart() -> Plan:
    plan, found = build_plan(read_source(QUICKSTART, "quickstart.yaml"), laptop(), cards())
    assert found == ()
    return plan


def nowhere() -> Reporter:
    """For graphs that were made without a text."""
    return Reporter(lambda path, key: None)


@pytest.mark.parametrize("spec", sorted((ROOT / "specs/graphs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_graph_compiles(spec: Path) -> None:
    artifacts = compile_spec(read_source(spec.read_bytes(), spec.name), laptop(), load_target("local"), cards())

    assert artifacts[-1].text == spec.read_text()


def test_equal_input_gives_equal_bytes() -> None:
    def once() -> object:
        return compile_spec(read_source(QUICKSTART, "quickstart.yaml"), laptop(), load_target("local"), cards())

    assert once() == once()


def test_a_graph_without_a_text_is_proved_too() -> None:
    graph = quickstart().graph

    assert lower(plan_graph(graph, laptop(), nowhere())) == lower(quickstart())
    with pytest.raises(CompileError, match="D210"):
        plan_graph(
            msgspec.structs.replace(graph, components=graph.components[1:], edges=graph.edges[1:]), laptop(), nowhere()
        )


def test_a_pass_that_breaks_the_graph_is_our_bug() -> None:
    def forget_components(graph: Graph, report: Reporter) -> Graph:
        del report
        return msgspec.structs.replace(graph, components=graph.components[:2])

    with pytest.raises(ViolationError, match="names no component"):
        run((*GRAPH_PASSES, forget_components), quickstart().graph, nowhere(), verify_graph)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": (0,), "ranks": (0,)}, "a GPU the node has not"),
        ({"node": 7}, "on no node"),
        ({"name": "frontend-0"}, "more than one owner"),
        ({"ports": {"plane": 8000}}, "more than one owner"),
    ],
)
def test_verify_sees_a_broken_plan(changes: dict[str, object], words: str) -> None:
    plan = quickstart()
    broken = msgspec.structs.replace(plan.processes[-1], **changes)  # type: ignore[arg-type]
    with pytest.raises(ViolationError, match=words):
        verify_plan(msgspec.structs.replace(plan, processes=(*plan.processes[:-1], broken)))


def test_an_unknown_target_is_answered_with_the_known() -> None:
    with pytest.raises(UnknownTargetError, match="no target `lsf`; this version has `local`, `slurm`"):
        load_target("lsf")
    assert [load_target(name).name for name in TARGETS] == list(TARGETS)
