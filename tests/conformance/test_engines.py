"""One suite for every registered engine: what the `Engine` protocol promises, whatever computes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from driving import Listener, request, send, settings

from dynamoc.runtime.engines.protocol import StepReport
from dynamoc.runtime.engines.registry import ENGINES, make_engine
from dynamoc.runtime.kv.hashing import local_hashes, pack_tokens, sequence_hashes
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored, KvEvent

MODEL = Path("~/.cache/dynamoc/models/HuggingFaceTB/SmolLM2-135M-Instruct").expanduser()
NEEDS_MODEL = (
    pytest.mark.model,
    pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="no model folder (make model)"),
)
BLOCK_SIZE = 8
KEYS = itertools.count(1)


@dataclass
class Pair:
    """Two engines of a kind, the second of which cuts prompts in small chunks; and what the load reported."""

    whole: Listener
    cut: Listener
    progress: list[tuple[float, str]] = field(default_factory=list)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=NEEDS_MODEL if name == "native" else ()) for name in sorted(ENGINES)],
)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    progress: list[tuple[float, str]] = []
    listeners = []
    for budget in (256, 10):
        worker = settings(request.param, blocks=64, block_size=BLOCK_SIZE, max_batched_tokens=budget)
        engine = make_engine(worker, MODEL, "model")
        engine.load(lambda fraction, what: progress.append((fraction, what)))
        listeners.append(Listener(engine))
    yield Pair(*listeners, progress)
    for listener in listeners:
        listener.engine.stop()
        listener.engine.stop()


def prompt(name: int, length: int = 30) -> list[int]:
    """A prompt that shares no block with others of another name."""
    return [(name * 7919 + position * 104_729) % 900 + 100 for position in range(length)]


def generate(listener: Listener, tokens: list[int], count: int = 6, **fields: object) -> list[int]:
    key = next(KEYS)
    listener.engine.add(request(key, tokens, count, temperature=0.0, ignore_eos=True, **fields))
    return listener.finish(key)[key]


def settle(listener: Listener) -> StepReport:
    """The report after which nothing is in use."""
    while (report := listener.next()).stats.active_blocks:
        assert report.failure is None
    return report


def test_load_reports_progress_up_to_the_end(pair: Pair):
    fractions = [fraction for fraction, _ in pair.progress]

    assert fractions[-1] == 1.0
    assert all(0 <= fraction <= 1 and what for fraction, what in pair.progress)


def test_layout_and_pool_agree(pair: Pair):
    engine = pair.whole.engine
    layout, pool = engine.layout(), engine.pool()

    assert pool.layout == layout
    assert layout.block_size == BLOCK_SIZE
    assert pool.blocks == 64
    assert len(pool.data) == 64 * layout.block_bytes
    assert layout == pair.cut.engine.layout()


def test_chunked_or_whole_fresh_or_cached_tokens_are_the_same(pair: Pair):
    tokens = generate(pair.whole, prompt(1))

    assert len(tokens) == 6
    assert generate(pair.cut, prompt(1)) == tokens
    assert generate(pair.whole, prompt(1)) == tokens
    assert pair.whole.seen[-1].stats.cached_tokens >= 24
    assert generate(pair.whole, prompt(1) + tokens[:2], generated=2) == tokens[2:]


def test_a_batch_gives_what_each_gives_alone(pair: Pair):
    alone = [generate(pair.whole, prompt(name, 5 + name), 5) for name in range(10, 16)]
    keys = [next(KEYS) for _ in alone]
    for key, name in zip(keys, range(10, 16), strict=True):
        pair.cut.engine.add(request(key, prompt(name, 5 + name), 5, temperature=0.0, ignore_eos=True))

    assert list(pair.cut.finish(*keys).values()) == alone


@pytest.mark.parametrize("length", [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 30])
def test_kv_from_a_peer_is_as_good_as_ones_own(pair: Pair, length: int):
    tokens, key = prompt(100 + length, length), next(KEYS)
    wanted = request(key, tokens, 6, temperature=0.0, ignore_eos=True)
    pair.whole.engine.reserve(wanted)
    pair.cut.engine.add(request(key, tokens, 6, temperature=0.0, ignore_eos=True, hold_kv=True))
    reserved, prefilled = pair.whole.reserved(), pair.cut.prefilled()
    assert len(reserved.blocks) == len(prefilled.blocks) == -(-length // BLOCK_SIZE)
    send(pair.cut.engine.pool(), prefilled, pair.whole.engine.pool(), reserved)
    pair.cut.engine.release(key)
    pair.whole.engine.resume(key, prefilled.output)
    resumed = [*prefilled.output.tokens, *pair.whole.finish(key)[key]]

    assert generate(pair.cut, tokens) == resumed


def test_a_reservation_may_be_computed_here_or_dropped(pair: Pair):
    listener, key, other = pair.whole, next(KEYS), next(KEYS)
    expected = generate(pair.cut, prompt(200), 6)
    listener.engine.reserve(request(key, prompt(200), 6, temperature=0.0, ignore_eos=True))
    listener.engine.reserve(request(other, prompt(201), 6))
    first = listener.reserved()
    if len(listener.seen[-1].reserved) == 1:
        listener.reserved()
    listener.engine.compute(first.key)
    listener.engine.quarantine(other)

    assert listener.finish(key)[key] == expected
    assert listener.seen[-1].stats.quarantined_blocks == 4
    listener.engine.release(other)
    assert settle(listener).stats.quarantined_blocks == 0


def test_events_add_up_to_what_is_resident(pair: Pair):
    for name in range(300, 320):  # more than the pool holds
        generate(pair.whole, prompt(name, 32), 1)
    generate(pair.cut, prompt(319, 32), 4)
    for listener in (pair.whole, pair.cut):
        told: set[int] = set()
        for report in listener.seen:
            follow(told, report.events)
        resident: set[int] = set()
        follow(resident, listener.engine.resident())

        assert told == resident
        assert len(resident) <= 64
        assert set(sequence_hashes(local_hashes(pack_tokens(prompt(319, 32)), BLOCK_SIZE))) <= resident


def follow(resident: set[int], events: list[KvEvent]) -> None:
    for event in events:
        if isinstance(event, BlocksStored):
            resident.update(block.sequence_hash for block in event.blocks)
        elif isinstance(event, BlocksRemoved):
            resident.difference_update(event.sequence_hashes)


def test_what_can_never_fit_is_an_error_output(pair: Pair):
    key = next(KEYS)
    pair.whole.engine.add(request(key, [1] * 256, 5))
    while not (report := pair.whole.next()).outputs:
        pass

    (output,) = report.outputs
    assert (output.request_id, output.finish) == (key, "error")
    assert "256 tokens leave no room to generate" in (output.error or "")


def test_a_cancelled_request_gives_its_blocks_back(pair: Pair):
    key = next(KEYS)
    pair.whole.engine.add(request(key, prompt(400), 200, ignore_eos=True))
    while not pair.whole.next().stats.running:
        pass
    pair.whole.engine.cancel(key)

    assert settle(pair.whole).stats.running == 0
    assert generate(pair.whole, prompt(401), 2) == generate(pair.cut, prompt(401), 2)
