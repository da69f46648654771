"""The mocker: its clock, its arguments, its cost."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
from driving import INSTANT, Core, mock_tokens, request, settings

from dynamoc.runtime.engines.mocker import MockArguments, MockRunner, StepClock, step_seconds
from dynamoc.runtime.engines.native.sequence import Chunk, Sequence, Step
from dynamoc.runtime.plane.messages import Sampling, TokenLogprob


def chunk(key: int, start: int, count: int) -> Chunk:
    return Chunk(Sequence(key, [1] * (start + count), start + count, Sampling(1)), start, count, sample=True)


ARGUMENTS = MockArguments(
    prefill_base_ms=2,
    prefill_us_per_token=10,
    prefill_ns_per_pair=4,
    decode_step_ms=5,
    decode_us_per_sequence=30,
    decode_us_per_block=1,
)


@pytest.mark.parametrize(
    ("chunks", "us"),
    [
        ([chunk(1, 0, 100)], 2000 + 1000 + 100 * 50 * 0.004),
        ([chunk(1, 100, 100)], 2000 + 1000 + 100 * 150 * 0.004),
        ([chunk(1, 31, 1)], 5000 + 30 + 2),
        ([chunk(1, 32, 1), chunk(2, 0, 1)], 5000 + 60 + 4),
        ([chunk(1, 15, 1), chunk(2, 0, 10)], 5000 + 31 + 100 + 10 * 5 * 0.004),
    ],
)
def test_what_a_step_costs(chunks: list[Chunk], us: float):
    assert step_seconds(Step(tuple(chunks)), ARGUMENTS, 16) == pytest.approx(us / 1e6)


def test_speedup_divides_and_zero_takes_no_time():
    step = Step((chunk(1, 0, 100),))
    twice = MockArguments(speedup=2)

    assert step_seconds(step, twice, 16) == step_seconds(step, MockArguments(), 16) / 2
    assert step_seconds(step, MockArguments(speedup=0), 16) == 0


def test_a_chunked_prompt_costs_as_much_attention_as_a_whole_one():
    free = MockArguments(prefill_base_ms=0, prefill_us_per_token=0, decode_step_ms=0)
    parts = [step_seconds(Step((chunk(1, start, 50),)), free, 16) for start in (0, 50, 100)]

    assert sum(parts) == pytest.approx(step_seconds(Step((chunk(1, 0, 150),)), free, 16))


def test_lateness_does_not_add_up():
    step = Step((chunk(1, 4, 1),))
    elapsed = [1.0]
    tried_until = time.monotonic() + 60
    while min(elapsed) >= 0.084 and time.monotonic() < tried_until:  # one of them is not disturbed by a busy machine
        clock, started = StepClock(), time.monotonic()
        for _ in range(40):
            deadline = clock.begin(step, 0.002)
            time.sleep(0.0005)
            clock.sleep_until(deadline)
        elapsed.append(time.monotonic() - started)

    assert 0.08 <= min(elapsed) < 0.084


def test_a_pause_is_not_caught_up():
    clock = StepClock()
    clock.sleep_until(clock.begin(Step((chunk(1, 4, 1),)), 0.001))
    time.sleep(0.03)
    now = time.monotonic()

    assert clock.begin(Step((chunk(1, 4, 1),)), 0.010) >= now
    time.sleep(0.03)
    now = time.monotonic()
    assert clock.begin(Step((chunk(2, 4, 1),)), 0.010) >= now + 0.010


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"speed": 2}, "engine `mocker` has no argument `speed`; it knows: speedup, prefill_base_ms"),
        ({"decode_step_ms": "fast"}, r"engine `mocker`: wrong argument: .*decode_step_ms"),
        ({"speedup": -1}, r"wrong argument: .*speedup"),
        ({"vocab_size": 10}, "first_token 1000 must be below vocab_size 10"),
    ],
)
def test_wrong_arguments_are_explained(args: dict[str, object], text: str):
    with pytest.raises(ValueError, match=text):
        MockRunner(settings(args=args), Path())


def test_tokens_follow_from_prompt_and_seed_alone():
    core = Core(settings())
    for key, seed in enumerate([0, 1, 2**64 - 1, -5]):
        core.scheduler.add(request(key, [1, 2, 3], 20, seed=seed))
    core.scheduler.add(request(9, [1, 2, 4], 20))
    core.run()

    assert len({tuple(tokens) for tokens in core.tokens.values()}) == 5
    assert core.tokens[1] == mock_tokens([1, 2, 3], 20, seed=1)
    assert all(50 <= token < 1000 for tokens in core.tokens.values() for token in tokens)
    core.close()


def test_logprobs_come_where_they_are_wanted():
    core = Core(settings())
    for key, wanted in enumerate([-1, 0, 3]):
        core.scheduler.add(request(key, [key], 1, logprobs=wanted))
    core.step()
    outputs = core.report.outputs

    assert [output.logprobs for output in outputs] == [
        (),
        (TokenLogprob(0.0),),
        (TokenLogprob(0.0, ((outputs[2].tokens[0], 0.0),)),),
    ]
    core.close()


@pytest.mark.parametrize("late", [0, 4, 9])
def test_a_page_overwritten_while_in_use_is_noticed(late: int):
    core = Core(settings(block_size=4))
    core.scheduler.add(request(1, list(range(30)), 40))
    for _ in range(late + 1):
        core.step()
    block = core.scheduler._running[1].blocks[2]
    core.pool.block(block)[0] ^= 0xFF

    with pytest.raises(RuntimeError, match=f"block {block} does not hold the KV from token 8 of request 1"):
        core.step()
    core.close()


@pytest.mark.parametrize(("streams", "length", "victim"), [(60, 63, 37), (2, 1200, 0), (2, 1200, 1), (3, 1200, 2)])
def test_with_many_blocks_in_use_every_page_is_still_looked_at(streams: int, length: int, victim: int):
    core = Core(settings(blocks=2048, max_sequences=64, max_batched_tokens=4096, context_length=2048))
    for key in range(streams):
        core.scheduler.add(request(key, [key] * length, 100))
    for _ in range(3):
        core.step()
    core.pool.block(core.scheduler._running[victim].blocks[0])[5] ^= 1

    with pytest.raises(RuntimeError, match=f"of request {victim}$"):
        core.run(limit=8)
    core.close()


def test_a_token_costs_little_at_64_streams():
    args = {**INSTANT, "vocab_size": 32000}
    core = Core(
        settings(blocks=4096, block_size=16, max_sequences=64, max_batched_tokens=8192, context_length=1024, args=args)
    )
    for key in range(64):
        core.scheduler.add(request(key, [key] + [5] * 100, 200, seed=key))
    scheduler, runner = core.scheduler, core.runner
    scheduler.finish(step := scheduler.schedule(), runner.execute(step))
    gc.collect()
    spent = []
    for _ in range(190):
        before = time.thread_time()
        step = scheduler.schedule()
        scheduler.finish(step, runner.execute(step))
        scheduler.take_report()
        spent.append((time.thread_time() - before) / 64)

    # About a third of this on a quiet core; the bound is for a busy one.
    assert sorted(spent)[len(spent) // 10] < 15e-6
    core.close()
