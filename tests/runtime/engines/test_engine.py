"""The engine's thread: reports, idling, failures, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driving import INSTANT, Listener, mock_tokens, page_bytes, request, send, settings

from dynamoc.runtime.engines.native import engine as engine_module
from dynamoc.runtime.engines.native.engine import CoreEngine
from dynamoc.runtime.engines.registry import make_engine
from dynamoc.runtime.manifest import WorkerSettings
from dynamoc.runtime.plane.messages import BlocksStored, TokenOutput

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]

Start = Callable[..., Listener]


@pytest.fixture
def start() -> Iterator[Start]:
    engines = []

    def make(worker: WorkerSettings | None = None) -> Listener:
        engine = make_engine(worker or settings(), Path(), "model")
        engines.append(engine)
        engine.load(lambda _fraction, _what: None)
        return Listener(engine)

    yield make
    for engine in engines:
        engine.stop()


def test_outputs_come_one_report_a_step(start: Start):
    listener = start(settings(args={**INSTANT, "speedup": 1, "prefill_base_ms": 20, "decode_step_ms": 1}))
    for key in range(4):
        listener.engine.add(request(key, [key, *PROMPT], 6, seed=key))
    tokens = listener.finish(*range(4))

    assert tokens == {key: mock_tokens([key, *PROMPT], 6, seed=key) for key in range(4)}
    assert max(len(report.outputs) for report in listener.seen) == 4
    stats = listener.seen[-1].stats
    assert (stats.running, stats.waiting, stats.active_blocks, stats.generated_tokens) == (0, 0, 0, 24)
    assert 6 <= stats.steps <= 12
    assert stats.step_seconds >= 0.025


def test_a_reservation_alone_is_reported(start: Start):
    listener = start()
    listener.engine.reserve(request(1, PROMPT))
    reserved = listener.reserved()

    assert len(reserved.blocks) == 3
    assert listener.seen[-1].stats.active_blocks == 3
    assert listener.seen[-1].stats.steps == 0
    listener.engine.quarantine(1)
    assert listener.next().stats.quarantined_blocks == 3
    listener.engine.release(1)
    assert listener.next().stats.quarantined_blocks == 0


def test_prefill_and_decode_engines_together_give_what_one_gives(start: Start):
    prefill, decode = start(), start()
    decode.engine.reserve(request(1, PROMPT, 5))
    prefill.engine.add(request(1, PROMPT, 5, hold_kv=True))
    reserved, prefilled = decode.reserved(), prefill.prefilled()
    send(prefill.engine.pool(), prefilled, decode.engine.pool(), reserved)
    prefill.engine.release(1)
    decode.engine.resume(1, prefilled.output)

    assert [*prefilled.output.tokens, *decode.finish(1)[1]] == mock_tokens(PROMPT, 5)
    assert prefill.next().stats.active_blocks == 0


def test_many_requests_through_small_pools_of_two_engines(start: Start):
    prefill, decode = start(settings(blocks=20)), start(settings(blocks=20))
    prompts = {key: [key % 3] * (key % 17 + 1) for key in range(1, 61)}
    expected = {key: mock_tokens(prompt, 12, seed=key % 2) for key, prompt in prompts.items()}
    for key, prompt in prompts.items():
        decode.engine.reserve(request(key, prompt, 12, seed=key % 2))
    reserved, tokens, finished = {}, {key: [] for key in prompts}, set()
    while len(finished) < len(prompts):
        for listener in (decode, prefill):
            while not listener.reports.empty():
                report = listener.next()
                assert report.failure is None
                for reservation in report.reserved:
                    key = reservation.key
                    reserved[key] = reservation
                    prefill.engine.add(request(key, prompts[key], 12, seed=key % 2, hold_kv=True))
                for prefilled in report.prefilled:
                    send(prefill.engine.pool(), prefilled, decode.engine.pool(), reserved[prefilled.key])
                    prefill.engine.release(prefilled.key)
                    decode.engine.resume(prefilled.key, prefilled.output)
                    tokens[prefilled.key].extend(prefilled.output.tokens)
                for output in report.outputs:
                    tokens[output.request_id].extend(output.tokens)
                    finished.update({output.request_id} if output.finish else ())
        time.sleep(0.0005)

    assert tokens == expected
    assert decode.seen[-1].stats.preemptions > 0


def test_room_made_by_a_preemption_is_used_without_another_command(start: Start):
    listener = start(settings(blocks=6, max_sequences=1))
    listener.engine.add(request(1, PROMPT[:4], 12))
    listener.engine.reserve(request(2, PROMPT, 2))
    blocks = listener.reserved().blocks
    for block, page in zip(blocks, page_bytes(PROMPT, 4), strict=True):
        listener.engine.pool().block(block)[:] = page
    listener.engine.resume(2, TokenOutput(2, tuple(mock_tokens(PROMPT, 1))))

    tokens = listener.finish(1, 2)
    assert tokens[2] == mock_tokens(PROMPT, 2)[1:]
    seen = [token for report in listener.seen for output in report.outputs for token in output.tokens]
    assert len(seen) == 13


def test_resident_may_be_asked_while_steps_run(start: Start):
    listener = start(settings(blocks=256, context_length=1000, max_sequences=2))
    listener.engine.add(request(1, PROMPT, 600))
    sizes = []
    for _ in range(50):
        events = listener.engine.resident()
        sizes.append(sum(len(event.blocks) for event in events if isinstance(event, BlocksStored)))
        time.sleep(0.0005)
    listener.finish(1)

    assert sizes == sorted(sizes)
    (event,) = listener.engine.resident()
    assert isinstance(event, BlocksStored)
    assert len(event.blocks) == (len(PROMPT) + 599) // 4


def test_a_cancelled_request_says_nothing_more(start: Start):
    listener = start(settings(args={**INSTANT, "speedup": 1, "decode_step_ms": 5}))
    listener.engine.add(request(1, PROMPT, 200))
    while not listener.next().outputs:
        pass
    listener.engine.cancel(1)
    while listener.next().stats.running:
        pass
    listener.engine.add(request(2, PROMPT, 2))

    assert listener.finish(2)[2] == mock_tokens(PROMPT, 2)


def test_a_failing_runner_is_reported_once_and_ends_the_engine(start: Start):
    listener = start()
    listener.engine.reserve(request(1, PROMPT))
    blocks = listener.reserved().blocks
    listener.engine.resume(1, TokenOutput(1, (60,)))
    failure = None
    while failure is None:
        failure = listener.next().failure

    assert failure == f"PageError: block {blocks[0]} does not hold the KV from token 0 of request 1"
    listener.engine.stop()
    listener.engine.stop()
    assert listener.reports.empty()


def test_the_idle_engine_checks_its_books(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "IDLE_CHECK_S", 0.02)
    listener = start()
    listener.engine.add(request(1, PROMPT, 2))
    listener.finish(1)
    scheduler = listener.engine._scheduler
    assert scheduler.blocks.extend([])  # a block that nobody owns
    listener.engine.cancel(99)
    failure = None
    while failure is None:
        failure = listener.next().failure

    assert failure.startswith("IntegrityError: block")


def test_an_idle_engine_takes_no_time(start: Start):
    start()
    before = time.process_time()
    time.sleep(1.5)

    assert time.process_time() - before < 0.5


def test_stop_ends_the_thread_and_frees_the_pool(start: Start):
    listener = start(settings(args={"speedup": 1, "decode_step_ms": 100}))
    listener.engine.add(request(1, PROMPT, 200))
    listener.next()
    pool = listener.engine.pool()
    started = time.monotonic()
    listener.engine.stop()

    assert time.monotonic() - started < 10, "its request would take 20 s"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine-")]
    with pytest.raises(ValueError, match="released"):
        pool.block(0)


def test_an_engine_starts_once_and_only_loaded():
    engine = make_engine(settings(), Path(), "model")
    with pytest.raises(RuntimeError, match="loaded once, then started once"):
        engine.start(lambda _report: None)
    assert engine.resident() == []
    engine.load(lambda _fraction, _what: None)
    engine.start(lambda _report: None)
    with pytest.raises(RuntimeError, match="started once"):
        engine.start(lambda _report: None)
    engine.stop()


def test_unknown_engines_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="no engine `vllm`; there are: echo, mocker, native"):
        make_engine(settings("vllm"), Path(), "model")
    monkeypatch.setitem(__import__("sys").modules, "dynamoc.runtime.engines.native.runner", None)
    with pytest.raises(ValueError, match="engine `native` cannot serve `model` here"):
        make_engine(settings("native"), Path(), "model")


def test_the_registry_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, dynamoc.runtime.engines.registry, dynamoc.runtime.engines.mocker; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout.strip() == "False"


def test_a_core_engine_is_named_after_its_kind():
    engine = make_engine(settings("echo"), Path(), "model")

    assert isinstance(engine, CoreEngine)
    assert engine.name == "echo"
