"""Where one request goes: which workers may take it, and which of them does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from random import Random

from dynamoc.runtime.manifest import Role, RouterSettings
from dynamoc.runtime.router.cost import (
    NOTHING,
    bypasses_prefill,
    compute_cost,
    credit,
    decode_cost,
    pick,
    work_tokens,
)
from dynamoc.runtime.router.index import Matched
from dynamoc.runtime.router.load import Charge, Share
from dynamoc.runtime.router.membership import Membership, Pool, Worker
from dynamoc.runtime.router.queue import Ask

POLICIES = ("kv", "round_robin", "random", "least_loaded")

Overlaps = Mapping[str, Matched]
Cost = Callable[[Worker], float]


class Blocked(StrEnum):
    """Why a request must wait."""

    NO_WORKER = "no_worker"
    SATURATED = "saturated"


class Outcome(StrEnum):
    """How a request was placed. `no_prefill`: the plan has prefill workers, but none that could take it."""

    AGGREGATED = "aggregated"
    DISAGGREGATED = "disaggregated"
    BYPASSED = "bypassed"
    NO_PREFILL = "no_prefill"


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision. `overlap_blocks` are what the worker that computes the prompt holds in device memory."""

    worker: Worker
    prefill: Worker | None
    overlap_blocks: int
    prompt_blocks: int
    outcome: Outcome
    charge: Charge


class Placer:
    """Decides on the current members and their load. Deciding changes nothing but whose turn it is."""

    def __init__(self, members: Membership, settings: RouterSettings, rng: Random) -> None:
        if settings.policy not in POLICIES:
            raise ValueError(f"unknown policy `{settings.policy}`; known: {', '.join(POLICIES)}")
        self._members = members
        self._settings = settings
        self._rng = rng
        self._turns = {True: count(), False: count()}

    def too_long(self, ask: Ask) -> str | None:
        """Why no registered worker could ever take the request; None if one could, or there is none yet."""
        serving = self._members.serving
        if not serving.workers or serving.fitting(ask.prompt_tokens, ask.max_tokens):
            return None
        context = max(worker.info.context_length for worker in serving.workers)
        cache = max(worker.cache_tokens for worker in serving.workers)
        return (
            f"{ask.prompt_tokens} prompt tokens and up to {ask.max_tokens} more do not fit "
            f"a context of {context} tokens and a KV cache of {cache}"
        )

    def has_room(self) -> bool:
        """Whether any worker that produces tokens would take one more request."""
        return any(not worker.is_saturated for worker in self._members.serving.workers)

    def is_picky(self, ask: Ask) -> bool:
        """Whether there are workers that may not take the request."""
        serving = self._members.serving
        fitting = serving.fitting(ask.prompt_tokens, ask.max_tokens)
        return bool(ask.avoid) or len(fitting) < len(serving.workers)

    def place(self, ask: Ask) -> Placement | Blocked:
        """Choose for one request."""
        serving = _candidates(self._members.serving, ask, ask.max_tokens)
        if not serving:
            return Blocked.NO_WORKER
        serving = [worker for worker in serving if not worker.is_saturated]
        if not serving:
            return Blocked.SATURATED
        prefill = _candidates(self._members.prefill, ask, 1)
        overlaps = self._overlaps(ask)
        worker = self._choose(serving, self._serving_cost(ask, overlaps, bool(prefill)), is_prefill=False)
        if worker.info.role == Role.AGGREGATED:
            return self._alone(ask, worker, overlaps, Outcome.AGGREGATED)
        held = overlaps.get(worker.name, NOTHING)
        if bypasses_prefill(_work(ask, worker, held), self._settings.bypass_below_tokens):
            return self._alone(ask, worker, overlaps, Outcome.BYPASSED)
        if not prefill:
            return self._alone(ask, worker, overlaps, Outcome.NO_PREFILL)
        prefill = [candidate for candidate in prefill if not candidate.is_saturated]
        if not prefill:
            return Blocked.SATURATED
        computing = self._choose(prefill, self._prefill_cost(ask, overlaps), is_prefill=True)
        return self._disaggregated(ask, worker, computing, overlaps)

    def _overlaps(self, ask: Ask) -> Overlaps:
        overlaps: dict[str, Matched] = {}
        for block_size in self._members.block_sizes:
            overlaps |= self._members.index.find(ask.hashes(block_size))
        return overlaps

    def _choose(self, workers: list[Worker], cost: Cost, *, is_prefill: bool) -> Worker:
        policy = self._settings.policy
        if len(workers) == 1:
            return workers[0]
        if policy == "round_robin":
            return workers[next(self._turns[is_prefill]) % len(workers)]
        if policy == "random":
            return self._rng.choice(workers)
        if policy == "least_loaded":
            return workers[pick([worker.load.active_requests for worker in workers], 0.0, self._rng)]
        return workers[pick([cost(worker) for worker in workers], self._settings.temperature, self._rng)]

    def _serving_cost(self, ask: Ask, overlaps: Overlaps, prefill_elsewhere: bool) -> Cost:
        prompt_tokens, settings = ask.prompt_tokens, self._settings

        def cost(worker: Worker) -> float:
            load, block_size = worker.load, worker.block_size
            matched = overlaps.get(worker.name)
            saved = credit(matched, settings.overlap_credit, worker.credits) if matched else 0.0
            prompt = prompt_tokens / block_size
            if prefill_elsewhere and worker.info.role == Role.DECODE:
                return decode_cost(load.active_blocks + prompt, saved)
            pending = load.prefill_tokens / block_size
            return compute_cost(prompt, pending, load.active_blocks + prompt, saved, settings.prefill_load_scale)

        return cost

    def _prefill_cost(self, ask: Ask, overlaps: Overlaps) -> Cost:
        """Prompts only: the blocks such a worker holds are those of prompts it still computes, or just has."""
        prompt_tokens, settings = ask.prompt_tokens, self._settings

        def cost(worker: Worker) -> float:
            saved = credit(overlaps.get(worker.name, NOTHING), settings.overlap_credit, worker.credits)
            prompt, pending = prompt_tokens / worker.block_size, worker.load.prefill_tokens / worker.block_size
            return compute_cost(prompt, pending, 0, saved, settings.prefill_load_scale)

        return cost

    # ---- what it adds -----------------------------------------------------------------------------------

    def _alone(self, ask: Ask, worker: Worker, overlaps: Overlaps, outcome: Outcome) -> Placement:
        matched = overlaps.get(worker.name, NOTHING)
        charge = Charge(Share(worker.load, _work(ask, worker, matched), _blocks(ask, worker)))
        return Placement(worker, None, matched[0], _blocks(ask, worker), outcome, charge)

    def _disaggregated(self, ask: Ask, worker: Worker, prefill: Worker, overlaps: Overlaps) -> Placement:
        matched = overlaps.get(prefill.name, NOTHING)
        work = _work(ask, prefill, matched)
        charge = Charge(Share(worker.load, 0, _blocks(ask, worker)), Share(prefill.load, work, _blocks(ask, prefill)))
        return Placement(worker, prefill, matched[0], _blocks(ask, prefill), Outcome.DISAGGREGATED, charge)


def _candidates(pool: Pool, ask: Ask, max_tokens: int) -> list[Worker]:
    """Workers the request fits. One that failed it is back in a new life, if nobody else is left."""
    fitting = pool.fitting(ask.prompt_tokens, max_tokens)
    if not ask.avoid:
        return fitting
    names = ask.avoided_names
    others = [worker for worker in fitting if worker.name not in names]
    return others or [worker for worker in fitting if worker.life not in ask.avoid]


def _work(ask: Ask, worker: Worker, matched: Matched) -> int:
    return work_tokens(ask.prompt_tokens, worker.block_size, matched, worker.credits)


def _blocks(ask: Ask, worker: Worker) -> int:
    return -(-ask.prompt_tokens // worker.block_size)
