"""From a demand to integer xPyD: how many workers of pools measured apart, which side binds, what it costs.

`templates/report/capacity.js` holds the same arithmetic for the page; a test compares both to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamoc.launcher.analysis.cost import gpu_hours_per_1k_requests
from dynamoc.launcher.analysis.pools import Demand, Engine, Pool, Refusal, best_engine


@dataclass(frozen=True, slots=True)
class Side:
    """One pool of the plan. `needed` workers carry the demand; `workers` is what the budget leaves of them."""

    engine: Engine
    needed: int
    workers: int
    utilisation: float
    """Of what the workers can carry, 0 to 1, at the rate that is served."""


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """xPyD with what it serves; `binding` is the side with the greater utilisation."""

    prefill: Side
    decode: Side
    gpus: int
    served_per_s: float
    """The demand, or what the budget leaves of it."""
    binding: str
    gpu_hours_per_1k: float


def plan_capacity(prefill: Pool, decode: Pool, demand: Demand) -> CapacityPlan | Refusal:
    """A plan, or why nothing that was measured can answer."""
    first = best_engine(prefill, demand)
    if isinstance(first, Refusal):
        return first
    second = best_engine(decode, demand)
    if isinstance(second, Refusal):
        return second
    needed = workers_for(demand, first), workers_for(demand, second)
    x, y = within_budget(needed, (first.gpus, second.gpus), demand)
    if not x or not y:
        least = demand.least_prefill * first.gpus + demand.least_decode * second.gpus
        return Refusal(f"the smallest deployment takes {least} GPUs, and the budget is {demand.gpu_budget}")
    carried = x * first.requests_per_s, y * second.requests_per_s
    served = min(demand.requests_per_s, min(carried) * demand.headroom)
    gpus = x * first.gpus + y * second.gpus
    used = served / carried[0], served / carried[1]
    return CapacityPlan(
        prefill=Side(first, needed[0], x, used[0]),
        decode=Side(second, needed[1], y, used[1]),
        gpus=gpus,
        served_per_s=served,
        binding="prefill" if used[0] > used[1] else "decode",
        gpu_hours_per_1k=gpu_hours_per_1k_requests(gpus, served),
    )


def workers_for(demand: Demand, engine: Engine) -> int:
    """Enough that none is asked for more than its share of what it can do."""
    least = demand.least_prefill if engine.role == "prefill" else demand.least_decode
    return max(least, math.ceil(demand.requests_per_s / engine.requests_per_s / demand.headroom))


def within_budget(needed: tuple[int, int], gpus: tuple[int, int], demand: Demand) -> tuple[int, int]:
    """Both sides shrink alike, neither below its least; nothing of either where the least does not fit."""
    (x, y), (gpus_x, gpus_y), budget = needed, gpus, demand.gpu_budget
    total = x * gpus_x + y * gpus_y
    if budget is None or total <= budget:
        return x, y
    least_x, least_y = demand.least_prefill, demand.least_decode
    if least_x * gpus_x + least_y * gpus_y > budget:
        return 0, 0
    x = max(least_x, min((budget - least_y * gpus_y) // gpus_x, x * budget // total))
    return x, max(least_y, min(y, (budget - x * gpus_x) // gpus_y))


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Whole deployments beside each other, each at the load it was measured at."""

    copies: int
    gpus: int
    utilisation: float
    gpu_hours_per_1k: float


def plan_copies(measured_per_s: float, gpus: int, requests_per_s: float, headroom: float) -> CopyPlan | Refusal:
    """How many copies of a measured deployment carry a rate."""
    if measured_per_s <= 0:
        return Refusal("the deployment completed no request")
    copies = max(1, math.ceil(requests_per_s / measured_per_s / headroom))
    cost = gpu_hours_per_1k_requests(copies * gpus, requests_per_s)
    return CopyPlan(copies, copies * gpus, requests_per_s / (copies * measured_per_s), cost)
