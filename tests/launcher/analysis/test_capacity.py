"""Capacity: against trying every number of workers, and the page's arithmetic against Python's to the last bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer
from seeded import seeded

import dynamoc
from dynamoc.launcher.analysis.capacity import CapacityPlan, CopyPlan, plan_capacity, plan_copies, within_budget
from dynamoc.launcher.analysis.pools import Demand, Engine, Pool, PoolPoint, Refusal, best_engine

SCRIPT = Path(dynamoc.__file__).parent / "templates/report/capacity.js"


def random_pool(draw: random.Random, role: str) -> Pool:
    points = tuple(
        PoolPoint(
            gpus=draw.choice((1, 2, 4)),
            curve=draw.choice("abc"),
            tokens=float(draw.choice((128, 1000, 4000))),
            time_ms=draw.uniform(1, 100),
            batch=draw.choice((0.25, 1, 4, 16)),
        )
        for _ in range(draw.randrange(14))
    )
    return Pool(role, points)


def random_demand(draw: random.Random) -> Demand:
    least = draw.randint(1, 2), draw.randint(1, 3)
    return Demand(
        requests_per_s=draw.uniform(0.1, 500),
        isl=float(draw.randint(100, 4200)),
        osl=float(draw.randint(1, 600)),
        ttft_ms=draw.uniform(1, 150),
        tpot_ms=draw.uniform(1, 150),
        headroom=draw.choice((0.5, 0.9, 1.0)),
        gpu_budget=draw.choice((None, None, draw.randint(1, 400))),
        least_prefill=least[0],
        least_decode=least[1],
    )


def brute_engine(pool: Pool, demand: Demand) -> tuple[float, int] | None:
    """The best requests per second and GPU with its GPUs, by going through every pair of neighbours."""
    prefill = pool.role == "prefill"
    at = demand.isl if prefill else demand.isl + demand.osl / 2
    limit = demand.ttft_ms if prefill else demand.tpot_ms
    found = []
    for gpus, curve in {(p.gpus, p.curve) for p in pool.points}:
        mine = [p for p in pool.points if (p.gpus, p.curve) == (gpus, curve)]
        slowest = {p.tokens: max((q for q in mine if q.tokens == p.tokens), key=lambda q: q.time_ms) for p in mine}
        lengths = sorted(slowest)
        found += [(gpus, slowest[n].batch, slowest[n].time_ms) for n in lengths if n == at]
        for low, high in itertools.pairwise(lengths):
            if low < at < high:
                weight = (at - low) / (high - low)
                a, b = slowest[low], slowest[high]
                found.append(
                    (gpus, a.batch * (1 - weight) + b.batch * weight, a.time_ms * (1 - weight) + b.time_ms * weight)
                )
    rates = [
        (batch * 1000 / time / (1 if prefill else demand.osl) / gpus, gpus)
        for gpus, batch, time in found
        if time <= limit
    ]
    return max(rates) if rates else None


@seeded(10_000)
def test_plans_are_the_smallest_that_carry_the_demand(seed: int) -> None:
    draw = random.Random(seed)
    pools = random_pool(draw, "prefill"), random_pool(draw, "decode")
    demand = random_demand(draw)
    plan = plan_capacity(*pools, demand)
    rates = [brute_engine(pool, demand) for pool in pools]
    if isinstance(plan, Refusal):
        least = [demand.least_prefill, demand.least_decode]
        smallest = sum(count * rate[1] for count, rate in zip(least, rates, strict=True) if rate)
        assert None in rates or (demand.gpu_budget is not None and smallest > demand.gpu_budget)
        return
    least = {"prefill": demand.least_prefill, "decode": demand.least_decode}
    for name, rate in zip(("prefill", "decode"), rates, strict=True):
        side = getattr(plan, name)
        assert rate is not None
        assert side.engine.requests_per_s / side.engine.gpus == pytest.approx(rate[0])
        count = least[name]
        while count * side.engine.requests_per_s * demand.headroom < demand.requests_per_s * (1 - 1e-12):
            count += 1
        assert side.needed == count
        assert side.utilisation <= demand.headroom + 1e-9
    assert plan.gpus <= (demand.gpu_budget or math.inf)
    busiest = max((plan.prefill.utilisation, "prefill"), (plan.decode.utilisation, "decode"))
    assert getattr(plan, plan.binding).utilisation == busiest[0]
    assert plan.gpu_hours_per_1k == pytest.approx(plan.gpus * 1000 / plan.served_per_s / 3600)


@seeded(10_000)
def test_a_budget_holds_and_wastes_less_than_a_worker(seed: int) -> None:
    draw = random.Random(seed)
    needed, gpus = (draw.randint(1, 40), draw.randint(1, 40)), (draw.randint(1, 8), draw.randint(1, 8))
    budget = draw.randint(1, 400)
    x, y = within_budget(needed, gpus, Demand(1, 1, 1, 1, 1, gpu_budget=budget))
    used = x * gpus[0] + y * gpus[1]

    assert used <= budget
    assert x <= needed[0]
    assert y <= needed[1]
    if sum(gpus) > budget:
        assert (x, y) == (0, 0)
    else:
        assert min(x, y) >= 1
        assert y == needed[1] or budget - used < gpus[1]


def points(*triples: tuple[float, float, int]) -> tuple[PoolPoint, ...]:
    return tuple(
        PoolPoint(gpus=1, curve=f"{batch}", tokens=tokens, time_ms=time, batch=batch) for tokens, time, batch in triples
    )


DEMAND = Demand(requests_per_s=10, isl=1000, osl=100, ttft_ms=500, tpot_ms=50)


def test_a_length_that_was_not_measured_is_refused_in_words() -> None:
    short = Pool("prefill", points((100, 10, 1), (800, 80, 1)))

    assert best_engine(short, DEMAND) == Refusal("prefill was measured at 100 to 800 tokens, and 1000 are asked for")


def test_a_limit_that_none_keeps_is_refused_with_the_nearest() -> None:
    slow = Pool("decode", points((500, 70, 4), (2000, 90, 4)))
    refusal = best_engine(slow, DEMAND)

    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("the shortest TPOT at 1050 tokens is 77.33 ms, and 50 ms is the limit")


def test_a_plan_by_hand() -> None:
    """Prefill at 100 ms: 10/s a worker. Decode of 8 at 40 ms and 100 tokens: 2/s a worker. 10/s at 90 %: 2P6D."""
    plan = plan_capacity(Pool("prefill", points((1000, 100, 1))), Pool("decode", points((1050, 40, 8))), DEMAND)

    assert isinstance(plan, CapacityPlan)
    assert (plan.prefill.workers, plan.decode.workers, plan.gpus, plan.served_per_s) == (2, 6, 8, 10)
    assert plan.binding == "decode"
    assert plan.decode.utilisation == pytest.approx(10 / 12)
    assert plan.prefill.engine == Engine("prefill", 1, 1, 100, 10)


def test_copies_of_a_deployment_by_hand() -> None:
    assert plan_copies(2.0, 4, 10.0, 1.0) == CopyPlan(5, 20, 1.0, pytest.approx(20 / 36))
    assert isinstance(plan_copies(0.0, 4, 10.0, 1.0), Refusal)


def as_json(answer: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(answer)))


def test_the_page_counts_as_python_does() -> None:
    draw = random.Random(11)
    cases = [(random_pool(draw, "prefill"), random_pool(draw, "decode"), random_demand(draw)) for _ in range(10_000)]
    copies = [(draw.choice((0.0, draw.uniform(0, 9))), draw.randint(1, 64), draw.uniform(0.1, 900), 0.9) for _ in cases]
    racer = MiniRacer()
    racer.eval(SCRIPT.read_text().replace('"use strict";', "").replace("const capacity", "var capacity"))
    plain = [[dataclasses.asdict(part) for part in case] for case in cases]
    script = (
        f"JSON.stringify([{json.dumps(plain)}.map((c) => capacity.planCapacity(...c)),"
        f"{json.dumps(copies)}.map((c) => capacity.planCopies(...c))])"
    )
    plans, counted = json.loads(racer.eval(script))
    answered = 0
    for case, plan in zip(cases, plans, strict=True):
        expected = as_json(plan_capacity(*case))
        assert plan.get("reason", "")[:30] == expected.get("reason", "")[:30]
        if "reason" not in expected:
            answered += 1
            assert plan == expected
    assert answered > 1_000
    assert counted == [as_json(plan_copies(*case)) for case in copies]
