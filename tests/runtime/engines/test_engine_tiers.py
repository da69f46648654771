"""An engine with KV tiers: evicted prefixes come back, every page is checked by the mocker when it is read again."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from driving import FIRST, VOCAB, Listener, mock_tokens, page_bytes, request, settings

from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.protocol import Filled
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.kv.tiers.tally import TierReport
from dynamoc.runtime.manifest import CacheSettings, DiskTier, ObjectTier
from dynamoc.runtime.plane.messages import BlocksRemoved, BlocksStored

SLOW: dict[str, object] = {
    "first_token": FIRST,
    "vocab_size": VOCAB,
    "prefill_us_per_token": 3000,
    "decode_step_ms": 0.1,
    "prefill_base_ms": 0.1,
}
"""Prompts are so dear to compute that every tier is faster."""
FRAME = 8192
BLOCKS = 24
PROMPT = list(range(100, 140))
OTHERS = [[n * 50 + k for k in range(40)] for n in range(10, 20)]
TIERS = ("host", "disk", "object", "host+disk", "host+object", "disk+object", "host+disk+object")


def cache(names: str, folder: Path, admission: str = "all") -> CacheSettings:
    wanted = names.split("+")
    return CacheSettings(
        host_bytes=200 * FRAME if "host" in wanted else None,
        disk=DiskTier(str(folder / "disk"), 400 * FRAME) if "disk" in wanted else None,
        object=ObjectTier(f"file://{folder}/objects") if "object" in wanted else None,
        admission=admission,
    )


def start(tiers: CacheSettings | None, **changes: object) -> tuple[CoreEngine, Listener]:
    worker = settings("mocker", blocks=BLOCKS, args=SLOW | changes)
    engine = make_engine(msgspec.structs.replace(worker, cache=tiers), Path("absent"), "mock")
    assert isinstance(engine, CoreEngine)
    engine.load(lambda _fraction, _what: None)
    return engine, Listener(engine)


def settle(engine: CoreEngine) -> None:
    """Wait until nothing is on its way between tiers."""
    assert engine._stack is not None
    deadline = time.monotonic() + 20
    while not engine._stack.idle() and time.monotonic() < deadline:
        time.sleep(0.002)
    engine._stack.check_integrity()


def reports(listener: Listener) -> list[TierReport]:
    while not listener.reports.empty():
        listener.next()
    return [report.tiers for report in listener.seen if report.tiers is not None]


def hits(listener: Listener) -> Counter[str]:
    return sum((report.hits for report in reports(listener)), Counter())


def finish(listener: Listener, key: int) -> list[int]:
    """The tokens of one request; those of cancelled ones may come in between."""
    tokens: list[int] = []
    while True:
        report = listener.next()
        assert report.failure is None, report.failure
        for output in report.outputs:
            assert output.error is None, output.error
            if output.request_id == key:
                tokens.extend(output.tokens)
                if output.finish is not None:
                    return tokens


def fill(engine: CoreEngine, listener: Listener, first_key: int = 100) -> None:
    """Push everything else out of the device."""
    for number, prompt in enumerate(OTHERS):
        engine.add(request(first_key + number, prompt, 2))
        assert finish(listener, first_key + number) == mock_tokens(prompt, 2)
        settle(engine)


@pytest.mark.parametrize("tiers", TIERS)
def test_an_evicted_prefix_comes_back_from_its_tier(tiers: str, tmp_path: Path) -> None:
    engine, listener = start(cache(tiers, tmp_path))
    engine.add(request(1, PROMPT, 4))
    expected = listener.finish(1)[1]
    settle(engine)
    fill(engine, listener)
    engine.add(request(2, PROMPT, 4))
    again = listener.finish(2)[2]
    settle(engine)
    found = hits(listener)
    cached = next(o.cached_tokens for r in listener.seen for o in r.outputs if o.request_id == 2)
    engine.stop()

    assert again == expected == mock_tokens(PROMPT, 4)
    assert found == {{"host": "G2", "disk": "G3", "object": "G4"}[tiers.split("+", maxsplit=1)[0]]: 9}
    assert cached == 36, "all full blocks but that of the last token"


@pytest.mark.parametrize("tiers", TIERS)
def test_blocks_for_a_peer_are_set_aside_at_once_while_the_tiers_fill_them(tiers: str, tmp_path: Path) -> None:
    engine, listener = start(cache(tiers, tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    engine.reserve(request(2, PROMPT, 4))
    reserved = listener.reserved()
    filled = listener.filled()
    pages = page_bytes(PROMPT, 4)
    held = [bytes(engine.pool().block(block)) for block in reserved.blocks]  # type: ignore[attr-defined]
    engine.compute(2)
    again = listener.finish(2)[2]
    engine.stop()

    assert (reserved.resident, reserved.loading) == (0, 9), "only the block of the last token is left for the peer"
    assert filled == Filled(2, 9)
    assert held[:9] == pages[:9]
    assert again == mock_tokens(PROMPT, 4)


def test_a_reservation_that_is_given_up_while_it_loads_leaves_nothing_behind(tmp_path: Path) -> None:
    engine, listener = start(cache("disk", tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    for key in range(200, 240, 2):
        engine.reserve(request(key, PROMPT, 4))
        engine.quarantine(key)
        engine.reserve(request(key + 1, PROMPT, 4))
        engine.compute(key + 1)
        assert finish(listener, key + 1) == mock_tokens(PROMPT, 4)
        engine.release(key)
    settle(engine)
    engine.stop()

    assert listener.seen[-1].stats.quarantined_blocks == 0
    assert listener.seen[-1].stats.active_blocks == 0


def test_the_router_hears_what_a_tier_saves(tmp_path: Path) -> None:
    engine, listener = start(cache("host+disk", tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    engine.add(request(2, PROMPT, 4))
    listener.finish(2)
    engine.add(request(3, OTHERS[0], 4))
    listener.finish(3)
    shares = listener.seen[-1].stats.tier_credits
    engine.stop()

    assert shares[0] is not None
    assert 0 < shares[0] <= 1, "prompts are dear to compute here"
    assert shares[2] is None, "there is no object store"


@pytest.mark.parametrize("tiers", ["disk", "host+disk", "object"])
def test_a_restarted_engine_finds_its_pages_again_and_says_so(tiers: str, tmp_path: Path) -> None:
    engine, listener = start(cache(tiers, tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    before = {block for event in engine.resident() for block in event.blocks if event.tier in ("G3", "G4")}
    engine.stop()
    engine, listener = start(cache(tiers, tmp_path))
    announced = {block for event in engine.resident() for block in event.blocks}
    deadline = time.monotonic() + 10
    while tiers == "object" and not len(engine._stack.stores[0].ledger) and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.add(request(2, PROMPT, 4))
    again = listener.finish(2)[2]
    settle(engine)
    found = hits(listener)
    after = {block for event in engine.resident() for block in event.blocks if event.tier in ("G3", "G4")}
    engine.stop()

    assert again == mock_tokens(PROMPT, 4)
    assert found.total() == 9
    assert before <= after, "an object store's pages are announced when a prompt asks for them"
    if tiers != "object":
        assert announced == before != set()


def test_events_tell_a_router_which_tier_holds_what(tmp_path: Path) -> None:
    engine, listener = start(cache("host+disk", tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    time.sleep(0.1)
    reports(listener)
    held: dict[tuple[str, int], int | None] = {}
    for event in (event for report in listener.seen for event in report.events):
        if isinstance(event, BlocksStored):
            parent = event.parent
            for block in event.blocks:
                assert parent is None or any((tier, parent) in held for tier in ("G1", "G2", "G3", "G4"))
                held[event.tier, block.sequence_hash] = parent
                parent = block.sequence_hash
        elif isinstance(event, BlocksRemoved):
            for name in event.sequence_hashes:
                del held[event.tier, name]
    resident = {(e.tier, block.sequence_hash) for e in engine.resident() for block in e.blocks}
    engine.stop()

    assert set(held) == resident
    assert {tier for tier, _ in held} == {"G1", "G2", "G3"}


def test_what_is_sooner_computed_is_computed(tmp_path: Path) -> None:
    engine, listener = start(cache("object", tmp_path), prefill_us_per_token=0.1)
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    engine.add(request(2, PROMPT, 4))
    again = listener.finish(2)[2]
    counted = reports(listener)
    engine.stop()

    assert again == mock_tokens(PROMPT, 4)
    assert sum(report.recomputed for report in counted) >= 9
    assert not sum((report.hits for report in counted), Counter())


def test_requests_with_one_prefix_load_it_once(tmp_path: Path) -> None:
    engine, listener = start(cache("disk", tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    fill(engine, listener)
    for key in (2, 3, 4):
        engine.add(request(key, PROMPT, 4))
    tokens = listener.finish(2, 3, 4)
    found = hits(listener)
    engine.stop()

    assert list(tokens.values()) == [mock_tokens(PROMPT, 4)] * 3
    assert found == {"G3": 9}


def test_cancelled_loads_leave_no_block_behind(tmp_path: Path) -> None:
    engine, listener = start(cache("disk", tmp_path))
    engine.add(request(1, PROMPT, 4))
    listener.finish(1)
    settle(engine)
    for round_ in range(5):
        fill(engine, listener, 1000 * (round_ + 1))
        engine.add(request(10 + round_, PROMPT, 4))
        time.sleep(0.001 * round_)
        engine.cancel(10 + round_)
    engine.add(request(99, PROMPT, 4))
    tokens = finish(listener, 99)
    settle(engine)
    time.sleep(0.1)
    assert engine._scheduler is not None
    engine._scheduler.check_integrity()
    engine.stop()

    assert tokens == mock_tokens(PROMPT, 4)


@pytest.mark.parametrize("tiers", ["host", "disk", "host+disk+object"])
@pytest.mark.parametrize("admission", ["all", "frequent"])
def test_a_crowd_in_a_small_pool_gets_the_right_tokens(tiers: str, admission: str, tmp_path: Path) -> None:
    """Shared prefixes, preemption, cancels, and loads and stores of the same blocks at once; the mocker checks all."""
    rng = random.Random(f"{tiers} {admission}")
    engine, listener = start(cache(tiers, tmp_path, admission), prefill_us_per_token=300)
    stems = [[rng.randrange(900) for _ in range(24)] for _ in range(6)]
    expected: dict[int, list[int]] = {}
    for wave in range(12):
        keys = []
        for key in range(wave * 10, wave * 10 + 10):
            prompt = rng.choice(stems)[: rng.randrange(4, 25)] + [rng.randrange(3) for _ in range(rng.randrange(1, 20))]
            engine.add(request(key, prompt, 6))
            if rng.random() < 0.2:
                engine.cancel(key)
            else:
                expected[key] = mock_tokens(prompt, 6)
                keys.append(key)
        for key, tokens in crowd(listener, keys).items():
            assert tokens == expected[key]
    settle(engine)
    time.sleep(0.1)
    assert engine._scheduler is not None
    engine._scheduler.check_integrity()
    found = hits(listener)
    engine.stop()

    assert found.total() > 0


def crowd(listener: Listener, keys: list[int]) -> dict[int, list[int]]:
    """The tokens of these requests, whatever else comes in between."""
    tokens: dict[int, list[int]] = {key: [] for key in keys}
    left = set(keys)
    while left:
        report = listener.next()
        assert report.failure is None, report.failure
        for output in report.outputs:
            assert output.error is None, output.error
            if output.request_id in tokens:
                tokens[output.request_id].extend(output.tokens)
                if output.finish is not None:
                    left.discard(output.request_id)
    return tokens
