"""The events of a simulated pipeline in the order of their times: arrivals, ends of steps, ends of transfers."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np

from dynamoc.runtime.engines.protocol import EngineRequest
from dynamoc.runtime.kv.hashing import TOKEN_BYTES
from dynamoc.runtime.manifest import Manifest, Role, RouterSettings
from dynamoc.runtime.plane.messages import KvEvents, Sampling, TokenOutput
from dynamoc.runtime.router.membership import Membership
from dynamoc.runtime.router.placement import Blocked, Placement, Placer
from dynamoc.runtime.router.queue import Ask
from dynamoc.runtime.simulation.asked import Answered, Asked, Wire
from dynamoc.runtime.simulation.worker import SimulatedWorker

TOKEN_TYPE = np.dtype(f"<u{TOKEN_BYTES}")
NOBODY: Any = None
"""The connection behind what is simulated."""


@dataclass(slots=True)
class _Flight:
    """A request under way."""

    answered: Answered
    ask: Ask
    sampling: Sampling
    placement: Placement | None = None
    resident: int = 0
    first: TokenOutput | None = None


class SimulatedPipeline:
    """One deployment of mockers, cold. Loads follow each other on its one clock; equal ones take equally long."""

    def __init__(self, manifest: Manifest, wire: Wire, seed: int = 0) -> None:
        self.now_s = 0.0
        self._wire = wire
        self._members = Membership(manifest)
        routers = [process.router for process in manifest.of_role(Role.ROUTER) if process.router is not None]
        self._settings = routers[0] if routers else RouterSettings()
        self._placer = Placer(self._members, self._settings, Random(seed))  # noqa: S311  # not a secret
        workers = [SimulatedWorker(p, manifest.model.served_name) for p in manifest.processes if p.role.is_worker]
        self._workers = {worker.process.name: worker for worker in workers}
        for worker in workers:
            self._members.add(worker.info, NOBODY)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._keys = itertools.count(1)
        self._flights: dict[int, _Flight] = {}
        self._waiting: deque[int] = deque()
        self._next: Callable[[], None] = lambda: None

    def closed_loop(self, asked: Iterable[Asked], width: int, limit_s: float) -> list[Answered]:
        """As many in flight as there may be; the next follows an answer. Ends after `limit_s` at the latest."""
        coming = iter(enumerate(asked))
        answers: list[Answered] = []

        def send() -> None:
            for index, one in itertools.islice(coming, 1):
                answers.append(self._send(index, one))

        self._next = send
        for _ in range(width):
            send()
        self._run_until(self.now_s + limit_s)
        return self._all_of(answers)

    def open_loop(self, asked: Iterable[Asked], width: int | None, limit_s: float) -> list[Answered]:
        """Each at its time, or, where as many are in flight as may be, when one of those is over; its clock runs."""
        begin, answers = self.now_s, list[Answered]()
        late: deque[tuple[int, Asked]] = deque()

        def arrive(index: int, one: Asked) -> None:
            late.append((index, one))
            release()

        def release() -> None:
            while late and (width is None or len(self._flights) < width):
                index, one = late.popleft()
                answers.append(self._send(index, one, begin + one.at_s))

        self._next = release
        for index, one in enumerate(asked):
            self._at(begin + one.at_s, partial(arrive, index, one))
        self._run_until(begin + limit_s)
        return self._all_of(answers)

    # ---- the clock ----------------------------------------------------------------------------------------

    def steps(self) -> dict[str, int]:
        """By worker, how many it has begun."""
        return {name: worker.steps for name, worker in self._workers.items()}

    def _at(self, time_s: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), happens))

    def _run_until(self, end_s: float) -> None:
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, happens = heapq.heappop(self._events)
            happens()
        if self._events:
            self.now_s = end_s

    def _all_of(self, answers: list[Answered]) -> list[Answered]:
        """Those that never ended are told why; nothing is in flight afterwards only if all ended."""
        for one in answers:
            if one.ended_s is None:
                one.ended_s = self.now_s
                one.error = one.error or "not answered before the deadline of the load point"
        return answers

    # ---- a request's life ---------------------------------------------------------------------------------

    def _send(self, index: int, asked: Asked, sent_s: float | None = None) -> Answered:
        answered = Answered(index, asked, self.now_s if sent_s is None else sent_s)
        words = np.asarray(asked.tokens, dtype=TOKEN_TYPE).tobytes()
        key = next(self._keys)
        ask = Ask(NOBODY, key, words, asked.osl)
        sampling = Sampling(max_tokens=asked.osl, temperature=0.0, ignore_eos=True)
        self._flights[key] = _Flight(answered, ask, sampling)
        self._waiting.append(key)
        self._place_waiting()
        return answered

    def _place_waiting(self) -> None:
        while self._waiting:
            key = self._waiting[0]
            flight = self._flights[key]
            why = self._placer.too_long(flight.ask)
            placement = None if why is not None else self._placer.place(flight.ask)
            if isinstance(placement, Blocked):
                return
            self._waiting.popleft()
            if placement is None:
                self._end(key, why)
                continue
            flight.placement = placement
            placement.charge.add()
            worker = self._workers[placement.worker.name]
            request = EngineRequest(key, list(flight.answered.asked.tokens), flight.sampling)
            if placement.prefill is None:
                worker.scheduler.add(request)
            else:
                worker.scheduler.reserve(request)
            self._step(worker)

    def _step(self, worker: SimulatedWorker) -> None:
        """Let an idle worker begin a step; take in what came of choosing it."""
        seconds = worker.begin()
        if seconds is not None:
            self._at(self.now_s + seconds, lambda: self._stepped(worker))
        self._take_in(worker)

    def _stepped(self, worker: SimulatedWorker) -> None:
        worker.end()
        self._take_in(worker)
        self._step(worker)
        self._place_waiting()

    def _take_in(self, worker: SimulatedWorker) -> None:
        report = worker.news()
        member = self._members.get(worker.process.name)
        assert member is not None
        if report.events:
            self._members.apply(member, KvEvents(worker.next_event, tuple(report.events)))
            worker.next_event += len(report.events)
        member.load.reported(report.stats.running + report.stats.waiting, report.stats.active_blocks)
        for output in report.outputs:
            self._output(output.request_id, output)
        for reserved in report.reserved:
            self._prefill(reserved.key, reserved.resident)
        for prefilled in report.prefilled:
            self._transfer(prefilled.key, prefilled.output, len(prefilled.blocks))

    def _prefill(self, key: int, resident: int) -> None:
        """The decode worker has blocks: the prefill worker is asked to fill those that are not resident."""
        flight = self._flights[key]
        flight.resident = resident
        assert flight.placement is not None
        assert flight.placement.prefill is not None
        worker = self._workers[flight.placement.prefill.name]
        request = EngineRequest(key, list(flight.answered.asked.tokens), flight.sampling, hold_kv=True)
        worker.scheduler.add(request)
        self._step(worker)

    def _transfer(self, key: int, first: TokenOutput, blocks: int) -> None:
        flight = self._flights[key]
        flight.first = first
        self._at(self.now_s + self._wire.seconds(max(0, blocks - flight.resident)), lambda: self._moved(key))

    def _moved(self, key: int) -> None:
        flight = self._flights[key]
        placement = flight.placement
        assert placement is not None
        assert placement.prefill is not None
        assert flight.first is not None
        decode, prefill = self._workers[placement.worker.name], self._workers[placement.prefill.name]
        prefill.scheduler.release(key)
        decode.scheduler.resume(key, flight.first)
        self._output(key, flight.first)
        self._step(prefill)
        self._step(decode)

    def _output(self, key: int, output: TokenOutput) -> None:
        flight = self._flights.get(key)
        if flight is None:
            return
        answered = flight.answered
        if output.tokens and not answered.token_s and flight.placement is not None:
            flight.placement.charge.prompt_computed()
        answered.token_s.extend(self.now_s for _ in output.tokens)
        if output.finish is not None:
            self._end(key, output.error)

    def _end(self, key: int, error: str | None) -> None:
        flight = self._flights.pop(key)
        flight.answered.ended_s = self.now_s
        flight.answered.error = error
        if flight.placement is not None:
            flight.placement.charge.ended()
        self._at(self.now_s, self._after_an_end)

    def _after_an_end(self) -> None:
        self._next()
        self._place_waiting()
