"""The largest load under the SLA: up to the first breach, whatever comes after it."""

from __future__ import annotations

import random

from seeded import seeded

from dynamoc.compiler.campaign.limits import read_limit
from dynamoc.launcher.analysis.max_load import max_load
from dynamoc.launcher.analysis.sla import Check

LIMIT = read_limit("ttft_ms@p95 <= 100")


def checks(time_ms: float) -> list[Check]:
    return [Check(LIMIT, time_ms, time_ms)]


@seeded(1_000)
def test_every_load_up_to_the_feasible_one_kept_it_and_the_next_did_not(seed: int) -> None:
    draw = random.Random(seed)
    measured = [(float(draw.randrange(8)), draw.choice((50.0, 150.0))) for _ in range(draw.randrange(10))]
    found = max_load((load, checks(time)) for load, time in measured)
    loads = sorted({load for load, _ in measured})
    good = [load for load in loads if all(time <= 100 for at, time in measured if at == load)]
    run = [load for count, load in enumerate(loads) if loads[: count + 1] == good[: count + 1]]

    assert found.feasible_max == (run[-1] if run else None)
    assert found.infeasible_min == (loads[len(run)] if len(run) < len(loads) else None)
    assert found.kept_above == tuple(good[len(run) :])


def test_the_breach_is_named() -> None:
    found = max_load([(1.0, checks(50.0)), (2.0, [*checks(90.0), Check(read_limit("tpot_ms@avg <= 10"), 12.0, 12.0)])])

    assert found.first_breach is not None
    assert found.first_breach.limit.metric == "tpot_ms"


def test_a_limit_that_is_not_certain_is_not_kept() -> None:
    assert max_load([(1.0, [Check(LIMIT, 50.0, 150.0)])]).feasible_max is None
