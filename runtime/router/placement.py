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
    uncached_tokens,
)
from dynamoc.runtime.router.index import Matched
from dynamoc.runtime.router.load import Charge, Share
from dynamoc.runtime.router.membership import Membership, Worker
from dynamoc.runtime.router.queue import Ask

POLICIES = ("kv", "round_robin", "random", "least_loaded")

Overlaps = Mapping[str, Matched]


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
        if not serving or any(worker.fits(ask.prompt_tokens, ask.max_tokens) for worker in serving):
            return None
        context = max(worker.info.context_length for worker in serving)
        cache = max(worker.info.blocks * worker.info.block_size for worker in serving)
        return (
            f"{ask.prompt_tokens} prompt tokens and up to {ask.max_tokens} more do not fit "
            f"a context of {context} tokens and a KV cache of {cache}"
        )

    def has_room(self) -> bool:
        """Whether any worker that produces tokens would take one more request."""
        return any(not worker.is_saturated for worker in self._members.serving)

    def place(self, ask: Ask) -> Placement | Blocked:
        """Choose for one request."""
        serving = self._candidates(self._members.serving, ask, ask.max_tokens)
        if not serving:
            return Blocked.NO_WORKER
        serving = [worker for worker in serving if not worker.is_saturated]
        if not serving:
            return Blocked.SATURATED
        prefill = self._candidates(self._members.prefill, ask, 1)
        overlaps = self._overlaps(ask)
        worker = self._choose(serving, self._serving_cost(ask, overlaps, bool(prefill)), is_prefill=False)
        if worker.info.role == Role.AGGREGATED:
            return self._alone(ask, worker, overlaps, Outcome.AGGREGATED)
        held = overlaps.get(worker.name, NOTHING)
        if bypasses_prefill(ask.prompt_tokens, worker.info.block_size, held, self._settings.bypass_below_tokens):
            return self._alone(ask, worker, overlaps, Outcome.BYPASSED)
        if not prefill:
            return self._alone(ask, worker, overlaps, Outcome.NO_PREFILL)
        prefill = [candidate for candidate in prefill if not candidate.is_saturated]
        if not prefill:
            return Blocked.SATURATED
        computing = self._choose(prefill, self._prefill_cost(ask, overlaps), is_prefill=True)
        return self._disaggregated(ask, worker, computing, overlaps)

    # ---- who may ----------------------------------------------------------------------------------------

    def _candidates(self, pool: list[Worker], ask: Ask, max_tokens: int) -> list[Worker]:
        """Workers the request fits. One that failed it is back in a new life, if nobody else is left."""
        prompt_tokens = ask.prompt_tokens
        fitting = [worker for worker in pool if worker.fits(prompt_tokens, max_tokens)]
        if not ask.avoid:
            return fitting
        names = ask.avoided_names
        others = [worker for worker in fitting if worker.name not in names]
        return others or [worker for worker in fitting if worker.life not in ask.avoid]

    # ---- who does ---------------------------------------------------------------------------------------

    def _overlaps(self, ask: Ask) -> Overlaps:
        overlaps: dict[str, Matched] = {}
        for block_size in {worker.info.block_size for worker in self._members.usable}:
            overlaps.update(self._members.index.find(ask.hashes(block_size)))
        return overlaps

    def _choose(self, workers: list[Worker], cost: Callable[[Worker], float], *, is_prefill: bool) -> Worker:
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

    def _serving_cost(self, ask: Ask, overlaps: Overlaps, prefill_elsewhere: bool) -> Callable[[Worker], float]:
        scale = self._settings.prefill_load_scale

        def cost(worker: Worker) -> float:
            saved, blocks = self._saved(worker, overlaps), worker.load.active_blocks + _blocks(ask, worker)
            if prefill_elsewhere and worker.info.role == Role.DECODE:
                return decode_cost(blocks, saved)
            return compute_cost(*_prompt_work(ask, worker), blocks, saved, scale)

        return cost

    def _prefill_cost(self, ask: Ask, overlaps: Overlaps) -> Callable[[Worker], float]:
        """Prompts only: the blocks such a worker holds are those of prompts it still computes, or just has."""
        scale = self._settings.prefill_load_scale
        return lambda worker: compute_cost(*_prompt_work(ask, worker), 0, self._saved(worker, overlaps), scale)

    def _saved(self, worker: Worker, overlaps: Overlaps) -> float:
        matched = overlaps.get(worker.name)
        return credit(matched, self._settings.overlap_credit) if matched else 0.0

    # ---- what it adds -----------------------------------------------------------------------------------

    def _alone(self, ask: Ask, worker: Worker, overlaps: Overlaps, outcome: Outcome) -> Placement:
        matched = overlaps.get(worker.name, NOTHING)
        uncached = uncached_tokens(ask.prompt_tokens, worker.info.block_size, matched)
        charge = Charge(Share(worker.load, uncached, _blocks(ask, worker)))
        return Placement(worker, None, matched[0], _blocks(ask, worker), outcome, charge)

    def _disaggregated(self, ask: Ask, worker: Worker, prefill: Worker, overlaps: Overlaps) -> Placement:
        matched = overlaps.get(prefill.name, NOTHING)
        uncached = uncached_tokens(ask.prompt_tokens, prefill.info.block_size, matched)
        charge = Charge(
            Share(worker.load, 0, _blocks(ask, worker)), Share(prefill.load, uncached, _blocks(ask, prefill))
        )
        return Placement(worker, prefill, matched[0], _blocks(ask, prefill), Outcome.DISAGGREGATED, charge)


def _blocks(ask: Ask, worker: Worker) -> int:
    return -(-ask.prompt_tokens // worker.info.block_size)


def _prompt_work(ask: Ask, worker: Worker) -> tuple[float, float]:
    """Blocks of prompt to compute for this request, and for those before it."""
    block_size = worker.info.block_size
    return ask.prompt_tokens / block_size, worker.load.prefill_tokens / block_size
