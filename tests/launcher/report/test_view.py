"""What is computed for a report, by hand on a few points and by brute force on many."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from report_samples import measured, samples
from result_rows import row, spread
from seeded import seeded

from dynamoc.compiler.campaign.limits import read_limit
from dynamoc.launcher.report.point_view import link_to, name_of
from dynamoc.launcher.report.points import Measured, Results
from dynamoc.launcher.report.view import View, make_view

HERE = Path("/reports")


def view_of(results: Results, *limits: str) -> View:
    return make_view(results, [read_limit(text) for text in limits] or results.limits, None, HERE)


def test_only_valid_points_stand_on_the_frontier() -> None:
    points = {point.id: point for point in view_of(samples()).points}

    assert [name for name, point in points.items() if point.front][:2] == ["fast", "full"]
    assert points["limited"].standing == "suspect"
    assert points["empty"].standing == "invalid"
    assert not points["limited"].front
    assert points["behind"].behind == "full"
    assert points["behind"].by == "25.0 % more tokens/s/user, 1233.3 % more tokens/s/GPU"


def test_figures_of_a_point() -> None:
    point = next(point for point in view_of(samples()).points if point.id == "full")

    assert point.figures["user"] == 25
    assert point.figures["throughput"] == 100
    assert point.figures["gpu_hours_per_1k"] == pytest.approx(4 * 1000 / 20 / 3600, rel=1e-4)
    assert point.figures["gpu_hours_per_1m"] == pytest.approx(4 * 1e6 / 400 / 3600, rel=1e-4)
    assert point.sla == "missed"
    assert point.sla_checks == ("ttft_ms@p95 <= 500: missed, 900",)


def test_what_a_campaign_cost() -> None:
    view = view_of(samples())

    assert (view.gpu_hours, view.measured_gpu_hours) == (4.0, 2.0)


def test_points_without_gpus_are_compared_by_the_whole_deployment() -> None:
    results = Results("cpu", (measured("a", 10.0, 40.0, gpus_allocated=0, gpus_working=0),))
    view = view_of(results, "ttft_ms@p95 <= 500")

    assert not view.per_gpu
    assert view.points[0].figures["throughput"] == 40
    assert "gpu_hours_per_1k" not in view.points[0].figures


def test_other_lengths_are_another_workload() -> None:
    """A point that is worse in everything still stands alone on the frontier of its lengths."""
    results = Results("two", (measured("a", 10.0, 40.0), measured("b", 20.0, 20.0, isl_asked=4000, isl=4000.0)))
    view = view_of(results, "ttft_ms@p95 <= 500")

    assert [point.front for point in view.points] == [True, True]
    assert len(view.workloads) == 2


def test_estimates_are_a_workload_of_their_own() -> None:
    results = Results("two", (measured("a", 10.0, 40.0), measured("b", 20.0, 20.0, labels={"estimate": "model"})))
    view = view_of(results, "ttft_ms@p95 <= 500")

    assert [point.front for point in view.points] == [True, True]
    assert view.points[1].workload.endswith(", simulated")


def test_repeats_are_one_point_with_an_interval_from_three_on() -> None:
    rows = tuple(row("r", tpot_ms=spread(1000 / rate)) for rate in (40.0, 50.0, 60.0))
    points = {
        count: view_of(Results("r", (Measured("r", "d", rows[:count]),)), "ttft_ms@p95 <= 500").points[0]
        for count in (2, 3)
    }

    assert points[2].intervals == {}
    assert points[3].figures["user"] == 50
    assert points[3].intervals["user"] == pytest.approx(4.303 * 10 / math.sqrt(3), rel=1e-2)


def test_the_largest_load_under_the_sla() -> None:
    (most,) = view_of(samples()).max_loads

    assert (most.feasible_max, most.infeasible_min) == (4, 8)
    assert most.breach == "ttft_ms@p95 <= 500: missed, never: requests failed"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"components.decode.replicas": "2", "defaults.block_size": "16"}, "replicas 2, block_size 16"),
        (
            {"components.decode.replicas": "2", "components.prefill.replicas": "1"},
            "decode.replicas 2, prefill.replicas 1",
        ),
        ({"batch": "4"}, "batch 4"),
        ({"a.b": "1", "b": "2"}, "a.b 1, b 2"),
    ],
)
def test_a_name_is_as_long_as_it_must_be(values: dict[str, str], name: str) -> None:
    assert name_of(values) == name


def test_a_link_is_relative_and_never_a_scheme() -> None:
    assert link_to(Path("/runs/javascript:alert(1)"), HERE) == "./../runs/javascript%3Aalert%281%29"
    assert link_to(Path("/reports/a b"), HERE) == "./a%20b"


@seeded(500)
def test_frontiers_equal_all_pairs_of_valid_points(seed: int) -> None:
    """Over random tables of good, failed and limited points of two workloads."""
    draw = random.Random(seed)
    points = []
    for number in range(draw.randint(1, 8)):
        completed = draw.choice((10, 10, 10, 0))
        points.append(
            measured(
                f"p{number}",
                float(draw.choice((10, 20, 40))),
                float(draw.choice((40, 80, 160))),
                client_limited=draw.random() < 0.1,
                isl_asked=draw.choice((8, 16)),
                completed=completed,
                failed=10 - completed,
            )
        )
    view = view_of(Results("random", tuple(points)), "ttft_ms@p95 <= 500")
    good = {
        p.id: (p.rows[0].isl_asked, 1000 / p.rows[0].tpot_ms.avg, p.rows[0].output_tokens_per_s / 4)
        for p in points
        if p.rows[0].completed and not p.rows[0].client_limited and p.rows[0].isl_asked == 8 and p.rows[0].tpot_ms
    }
    expected = {
        name
        for name, (_, x, y) in good.items()
        if not any(a >= x and b >= y and (a, b) != (x, y) for _, a, b in good.values())
    }

    assert {point.id for point in view.points if point.front and ", 8 in" in point.workload} == expected


def test_pools_measured_apart_feed_the_calculator_and_no_frontier_of_others() -> None:
    """An engine of 4 GPUs that takes 226 ms for 4,000 tokens, and one of 4 that decodes 32 at once."""
    asked = {"isl_asked": 4000, "isl": 4000.0, "osl_asked": 500, "osl": 500.0}
    first = {"ttft_ms": spread(226.0), "requests_per_s": 1 / 0.226, "concurrency": 1}
    prefill = row("p", labels={"role": "prefill"}, **asked, **first)
    decode = row("d", labels={"role": "decode"}, **asked, tpot_ms=spread(20.0), output_tokens_per_s=1600.0)
    view = view_of(Results("p", (Measured("p", "p", (prefill,)), Measured("d", "d", (decode,)))), "ttft_ms@p95 <= 500")

    assert (view.prefill[0].tokens, view.prefill[0].batch, view.prefill[0].gpus) == (4000, pytest.approx(1), 4)
    assert (view.decode[0].tokens, view.decode[0].batch, view.decode[0].time_ms) == (4250, pytest.approx(32), 20)
    assert all("alone" in workload for workload in view.workloads)
