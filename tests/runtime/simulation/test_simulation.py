"""Simulated time is arithmetic: one request takes what its steps take, and many lose or gain no token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    KvSettings,
    Manifest,
    ModelRef,
    ProcessSpec,
    Role,
    RouterSettings,
    WorkerSettings,
)
from dynamoc.runtime.simulation.asked import Asked, Wire
from dynamoc.runtime.simulation.pipeline import SimulatedPipeline

BLOCK = 16


def worker(name: str, role: Role, engine: str = "mocker", blocks: int = 256) -> ProcessSpec:
    settings = WorkerSettings(
        engine=engine,
        device="cpu",
        dtype="bfloat16",
        kv=KvSettings(block_size=BLOCK, blocks=blocks, dtype="bfloat16"),
        context_length=1024,
        max_batched_tokens=256,
        max_sequences=8,
    )
    return ProcessSpec(name=name, component=str(role), role=role, replica=0, node=0, argv=(), worker=settings)


def pipeline(*workers: ProcessSpec, wire: Wire | None = None, policy: str = "kv") -> SimulatedPipeline:
    router = ProcessSpec(
        name="router", component="router", role=Role.ROUTER, replica=0, node=0, argv=(), router=RouterSettings(policy)
    )
    manifest = Manifest(
        version=MANIFEST_VERSION,
        name="simulated",
        plan_hash="",
        model=ModelRef(ref="m", served_name="m"),
        nodes=1,
        processes=(router, *workers),
    )
    return SimulatedPipeline(manifest, wire or Wire())


def prompt(number: int, count: int) -> range:
    return range(number * 4096, number * 4096 + count)


def test_one_request_takes_what_its_steps_take() -> None:
    """Prefill 2 ms + 100 x 40 us + 100 x 50 pairs x 1 ns; then decodes of 6 ms + 20 us + 7 blocks x 0.5 us each."""
    (answer,) = pipeline(worker("a", Role.AGGREGATED)).closed_loop([Asked(prompt(0, 100), 4)], 1, 60.0)
    prefill = 0.002 + 100 * 40e-6 + 100 * 50e-9
    decode = 0.006 + 20e-6 + 7 * 0.5e-6

    assert answer.error is None
    assert answer.token_s == pytest.approx([prefill + k * decode for k in range(4)], abs=1e-12)


def test_the_wire_is_paid_for_before_the_first_token() -> None:
    wire = Wire(block_bytes=1000, bytes_per_s=1e6, latency_s=0.01)
    apart = pipeline(worker("p", Role.PREFILL), worker("d", Role.DECODE), wire=wire)
    together = pipeline(worker("a", Role.AGGREGATED))
    (slow,) = apart.closed_loop([Asked(prompt(0, 100), 4)], 1, 60.0)
    (fast,) = together.closed_loop([Asked(prompt(0, 100), 4)], 1, 60.0)

    assert slow.token_s[0] - fast.token_s[0] == pytest.approx(0.01 + 7 * 0.001)
    assert len(slow.token_s) == len(fast.token_s) == 4


def test_a_prompt_that_was_seen_is_not_computed_again() -> None:
    one = pipeline(worker("a", Role.AGGREGATED))
    (cold,) = one.closed_loop([Asked(prompt(0, 257), 2)], 1, 60.0)
    (warm,) = one.closed_loop([Asked(prompt(0, 257), 2)], 1, 60.0)

    assert warm.token_s[0] - warm.sent_s < (cold.token_s[0] - cold.sent_s) / 2


def test_arrivals_keep_their_times_and_a_deadline_ends_the_rest() -> None:
    asked = [Asked(prompt(n, 64), 100, at_s=n * 0.01) for n in range(4)]
    answers = pipeline(worker("a", Role.AGGREGATED)).open_loop(asked, None, 0.3)

    assert [answer.sent_s for answer in answers] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    assert all(answer.error == "not answered before the deadline of the load point" for answer in answers)
    assert all(0 < len(answer.token_s) < 100 for answer in answers)


def test_what_never_fits_is_an_error_of_its_request_alone() -> None:
    asked = [Asked(prompt(0, 2000), 4), Asked(prompt(1, 64), 4)]
    too_long, fine = pipeline(worker("a", Role.AGGREGATED)).closed_loop(asked, 1, 60.0)

    assert "do not fit" in (too_long.error or "")
    assert fine.error is None


def test_only_the_mocker_has_a_simulated_time() -> None:
    with pytest.raises(ValueError, match="`w` runs `native`"):
        pipeline(worker("w", Role.AGGREGATED, engine="native"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 12)), min_size=1, max_size=30),
    st.integers(1, 12),
    st.sampled_from(["kv", "round_robin", "random", "least_loaded"]),
    st.booleans(),
)
def test_every_token_comes_in_order_whatever_is_asked(
    lengths: list[tuple[int, int]], width: int, policy: str, apart: bool
) -> None:
    roles = [Role.PREFILL, Role.DECODE, Role.DECODE] if apart else [Role.AGGREGATED, Role.AGGREGATED]
    workers = [worker(f"w{number}", role, blocks=64) for number, role in enumerate(roles)]
    asked = [Asked(prompt(number % 3, isl), osl) for number, (isl, osl) in enumerate(lengths)]

    def once() -> list[list[float]]:
        return [one.token_s for one in pipeline(*workers, policy=policy).closed_loop(asked, width, 1e6)]

    answers = once()
    assert [len(times) for times in answers] == [osl for _, osl in lengths]
    assert all(times == sorted(times) for times in answers)
    assert once() == answers
