"""The scheduler, step by step, over a runner that checks every page it reads."""

from __future__ import annotations

import pytest
from driving import Core, mock_tokens, page_bytes, request, send, settings

from dynamoc.runtime.plane.messages import BlocksStored, TokenOutput

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]


def test_decodes_come_first_and_prefill_chunks_fill_the_budget():
    core = Core(settings(max_batched_tokens=16))
    core.scheduler.add(request(1, [1, 2, 3], 20))
    core.step()
    core.scheduler.add(request(2, list(range(30)), 5))
    core.scheduler.add(request(3, list(range(100, 112)), 5))

    shapes = [[(c.sequence.key, c.count, c.sample) for c in core.step().chunks] for _ in range(3)]
    assert shapes == [
        [(1, 1, True), (2, 15, False)],
        [(1, 1, True), (2, 15, True)],
        [(1, 1, True), (2, 1, True), (3, 12, True)],
    ]
    core.close()


def test_every_waiting_prompt_may_be_cut_in_chunks():
    core = Core(settings(max_batched_tokens=10, max_sequences=4))
    for key in range(4):
        core.scheduler.add(request(key, [key] * 25, 3))
    for step in core.run():
        assert sum(chunk.count for chunk in step.chunks) <= 10

    assert {key: core.tokens[key] for key in range(4)} == {key: mock_tokens([key] * 25, 3) for key in range(4)}
    core.close()


def test_decodes_never_exceed_a_small_budget():
    core = Core(settings(max_batched_tokens=2, max_sequences=8))
    for key in range(5):
        core.scheduler.add(request(key, [key, key], 4))
    for step in core.run():
        assert sum(chunk.count for chunk in step.chunks) <= 2

    assert all(core.tokens[key] == mock_tokens([key, key], 4) for key in range(5))
    core.close()


@pytest.mark.parametrize(
    ("sampling", "count", "reason"),
    [
        ({"max_tokens": 3}, 3, "length"),
        ({"max_tokens": 9, "stop_token_ids": (mock_tokens(PROMPT, 5)[4],)}, 5, "stop"),
        ({"max_tokens": 1000}, 32 - len(PROMPT), "length"),
    ],
)
def test_how_a_request_ends(sampling: dict[str, object], count: int, reason: str):
    core = Core(settings(context_length=32))
    core.scheduler.add(request(1, PROMPT, **sampling))
    core.run()

    assert core.tokens[1] == mock_tokens(PROMPT, count)
    assert core.finished[1].finish == reason
    core.close()


def test_a_pool_smaller_than_the_context_is_the_limit():
    core = Core(settings(blocks=5, context_length=1000))
    core.scheduler.add(request(1, PROMPT, 1000))
    core.run()

    assert core.tokens[1] == mock_tokens(PROMPT, 20 - len(PROMPT))
    assert core.finished[1].finish == "length"
    core.close()


@pytest.mark.parametrize(
    ("tokens", "fields", "text"),
    [
        ([], {}, "no prompt|no tokens"),
        (list(range(64)), {}, "64 tokens leave no room to generate: the limit is 64 .*16 blocks of 4"),
        ([1, 2], {"generated": 2}, "2 tokens of which 2 were generated leave no prompt"),
        ([1, 2], {"generated": -1}, "leave no prompt"),
    ],
)
@pytest.mark.parametrize("enter", ["add", "reserve"])
def test_what_can_never_run_is_refused_in_words(tokens, fields, text, enter):
    core = Core(settings(blocks=16))
    getattr(core.scheduler, enter)(request(1, tokens, **fields))
    core.run()

    output = core.finished[1]
    assert (output.finish, output.retryable) == ("error", False)
    with pytest.raises(RuntimeError, match=text):
        raise RuntimeError(output.error)
    core.close()


def test_a_replay_continues_where_it_was_cut():
    whole = mock_tokens(PROMPT, 10, seed=7)
    core = Core(settings())
    core.scheduler.add(request(1, PROMPT + whole[:4], 10, seed=7, generated=4))
    core.scheduler.add(request(2, PROMPT + whole, 10, seed=7, generated=10))
    core.run()

    assert core.tokens[1] == whole[4:]
    assert core.finished[1].finish == core.finished[2].finish == "length"
    assert core.tokens[2] == []
    core.close()


def test_a_prefix_hit_computes_the_rest_and_says_so():
    core = Core(settings())
    core.scheduler.add(request(1, PROMPT, 4))
    core.run()
    core.scheduler.add(request(2, PROMPT, 4))
    steps = core.run()

    assert steps[0].chunks[0].start == 12
    assert core.tokens[1] == core.tokens[2]
    assert core.cached == {1: 0, 2: 12}
    assert core.report.stats.prompt_tokens == 28
    assert core.report.stats.cached_tokens == 12
    core.close()


def test_preempted_sequences_end_with_the_same_tokens():
    core = Core(settings(blocks=12, max_sequences=6))
    prompts = {key: [key, *PROMPT[:7]] for key in range(6)}
    for key, prompt in prompts.items():
        core.scheduler.add(request(key, prompt, 30, seed=key))
    core.run()

    assert core.report.stats.preemptions > 0
    assert all(core.tokens[key] == mock_tokens(prompt, 30, seed=key) for key, prompt in prompts.items())
    assert core.report.stats.active_blocks == 0
    assert core.report.stats.prompt_tokens == 48
    core.close()


def test_a_newcomer_leaves_running_sequences_room_to_grow():
    core = Core(settings(blocks=8))
    core.scheduler.add(request(1, list(range(8)), 4))
    core.scheduler.add(request(2, list(range(50, 74)), 4))
    core.run()

    assert core.report.stats.preemptions == 0
    assert list(core.finished) == [1, 2]
    core.close()


def test_the_oldest_is_never_preempted_by_younger_ones():
    core = Core(settings(blocks=8, max_sequences=4))
    for key in range(4):
        core.scheduler.add(request(key, [key] * 4, 24))
    core.run()

    assert core.report.stats.preemptions > 0
    assert list(core.finished) == [0, 1, 2, 3]
    core.close()


def test_without_prefix_caching_all_is_computed_again():
    core = Core(settings(prefix_caching=False))
    for key in range(2):
        core.scheduler.add(request(key, PROMPT, 4))
        core.run()

    assert core.cached == {0: 0, 1: 0}
    assert core.tokens[0] == core.tokens[1] == mock_tokens(PROMPT, 4)
    assert core.events == []
    core.close()


def test_full_blocks_are_shared_as_soon_as_they_are_computed():
    core = Core(settings(max_batched_tokens=8))
    core.scheduler.add(request(1, PROMPT, 4))
    core.step()

    (stored,) = core.events
    assert isinstance(stored, BlocksStored)
    assert len(stored.blocks) == 2
    core.close()


def test_held_blocks_stay_until_released():
    core = Core(settings(blocks=8, prefix_caching=False))
    core.scheduler.add(request(1, PROMPT, 4, hold_kv=True))
    core.scheduler.add(request(2, PROMPT * 2, 2))
    core.run()

    prefilled = core.prefilled[1]
    assert list(prefilled.output.tokens) == mock_tokens(PROMPT, 1)
    assert prefilled.output.finish is None
    assert [bytes(core.pool.block(block)) for block in prefilled.blocks] == page_bytes(PROMPT, 4)
    assert 2 not in core.finished
    core.scheduler.release(1)
    core.run()
    assert core.tokens[2] == mock_tokens(PROMPT * 2, 2)
    core.close()


@pytest.mark.parametrize("same_prompt_before", [False, True])
def test_prefill_elsewhere_gives_the_same_tokens(same_prompt_before: bool):
    prefill, decode = Core(settings()), Core(settings())
    if same_prompt_before:
        decode.scheduler.add(request(9, PROMPT[:9], 1))
        decode.run()
        decode.events.clear()
    prefill.scheduler.add(request(1, PROMPT, 8, hold_kv=True))
    decode.scheduler.reserve(request(1, PROMPT, 8))
    prefill.run()
    decode.run()
    reserved = decode.reserved[1]
    send(prefill.pool, prefill.prefilled[1], decode.pool, reserved)
    decode.scheduler.resume(1, prefill.prefilled[1].output)
    decode.run()

    assert reserved.resident == (2 if same_prompt_before else 0)
    assert [*prefill.tokens[1], *decode.tokens[1]] == mock_tokens(PROMPT, 8)
    assert decode.finished[1].finish == "length"
    stored = [block for event in decode.events if isinstance(event, BlocksStored) for block in event.blocks]
    assert len(stored) == (14 + 7) // 4 - reserved.resident
    assert decode.report.stats.active_blocks == 0
    prefill.close()
    decode.close()


def test_a_resumed_request_whose_first_token_was_the_last_only_shares_its_blocks():
    core = Core(settings())
    core.scheduler.reserve(request(1, PROMPT, 1))
    core.scheduler.reserve(request(2, PROMPT[:6], 1))
    core.run()
    for block, page in zip(core.reserved[1].blocks, page_bytes(PROMPT, 4), strict=True):
        core.pool.block(block)[:] = page
    for block, page in zip(core.reserved[2].blocks, page_bytes(PROMPT[:6], 4), strict=True):
        core.pool.block(block)[:] = page
    core.scheduler.resume(1, TokenOutput(1, tuple(mock_tokens(PROMPT, 1)), "length"))
    core.scheduler.resume(2, TokenOutput(2, tuple(mock_tokens(PROMPT[:6], 1))))
    core.run()

    assert 1 not in core.finished
    assert core.finished[2] == TokenOutput(2, (), "length")
    assert core.report.stats.active_blocks == 0
    assert core.report.stats.cached_blocks == 3
    core.close()


def test_a_wrong_page_is_noticed_and_named():
    core = Core(settings())
    core.scheduler.reserve(request(1, PROMPT, 8))
    core.run()
    blocks = core.reserved[1].blocks
    for block, page in zip(blocks, page_bytes(PROMPT, 4), strict=True):
        core.pool.block(block)[:] = page
    core.pool.block(blocks[1])[9] ^= 1
    core.scheduler.resume(1, TokenOutput(1, tuple(mock_tokens(PROMPT, 1))))

    with pytest.raises(RuntimeError, match=f"block {blocks[1]} does not hold the KV from token 5 of request 1"):
        core.run()
    core.close()


def test_compute_takes_over_a_reservation():
    core = Core(settings(max_batched_tokens=6))
    core.scheduler.add(request(8, PROMPT[:5], 1))
    core.run()
    core.scheduler.reserve(request(1, PROMPT, 8))
    core.run()
    core.pool.block(core.reserved[1].blocks[-1])[:] = b"\xff" * 32
    core.scheduler.compute(1)
    core.run()

    assert core.tokens[1] == mock_tokens(PROMPT, 8)
    assert core.cached[1] == 4
    core.close()


def test_compute_before_the_blocks_were_had_makes_it_an_ordinary_request():
    core = Core(settings(blocks=4))
    core.scheduler.reserve(request(1, PROMPT, 8))
    core.scheduler.reserve(request(2, PROMPT[:9], 2))
    core.run()
    assert list(core.reserved) == [1]
    core.scheduler.compute(2)
    core.scheduler.release(1)
    core.run()

    assert core.tokens[2] == mock_tokens(PROMPT[:9], 2)
    core.close()


def test_reservations_wait_in_line_and_are_bounded():
    core = Core(settings(max_sequences=2))
    for key in range(4):
        core.scheduler.reserve(request(key, [key] * 6, 4))
    core.run()
    assert list(core.reserved) == [0, 1]
    assert core.report.stats.waiting == 4
    core.scheduler.release(0)
    core.run()

    assert list(core.reserved) == [0, 1, 2]
    core.close()


def test_quarantined_blocks_are_not_used_while_a_peer_may_write():
    core = Core(settings(blocks=8))
    core.scheduler.add(request(9, PROMPT[:5], 1))
    core.run()
    core.scheduler.reserve(request(1, PROMPT, 8))
    core.run()
    late = core.reserved[1].blocks[core.reserved[1].resident :]
    core.scheduler.quarantine(1)
    core.scheduler.add(request(2, PROMPT, 6))
    core.scheduler.add(request(3, PROMPT[1:], 6))
    for _ in range(30):
        core.step()
        for block in late:
            core.pool.block(block)[:] = b"\xee" * 32

    assert core.report.stats.quarantined_blocks == 3
    assert core.tokens[2] == mock_tokens(PROMPT, 6)
    assert core.tokens[3] == mock_tokens(PROMPT[1:], 6)
    core.scheduler.release(1)
    core.run()
    assert core.report.stats.quarantined_blocks == 0
    core.close()


def test_cancel_works_wherever_a_request_is():
    core = Core(settings(max_sequences=1, blocks=16))
    core.scheduler.add(request(1, PROMPT, 50))
    core.scheduler.add(request(2, PROMPT, 50))
    core.scheduler.reserve(request(3, PROMPT, 50))
    core.step()
    for key in (2, 3, 1, 77):
        core.scheduler.cancel(key)
    core.scheduler.add(request(4, PROMPT, 2, hold_kv=True))
    core.scheduler.reserve(request(5, PROMPT, 2))
    core.run()
    core.scheduler.cancel(4)
    core.scheduler.cancel(5)
    core.run()

    assert list(core.finished) == []
    assert (core.report.stats.active_blocks, core.report.stats.waiting, core.report.stats.running) == (0, 0, 0)
    core.close()


def test_late_words_about_forgotten_requests_are_ignored():
    core = Core(settings())
    for call in (core.scheduler.compute, core.scheduler.quarantine, core.scheduler.release, core.scheduler.cancel):
        call(5)
    core.scheduler.resume(5, TokenOutput(5, (1,)))
    core.run()

    assert core.report.outputs == []
    core.close()
