"""Each rule of a verdict against rows that break it and rows that just do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dynamoc.launcher.results.acceptance import synthetic_acceptance
from dynamoc.launcher.results.per_gpu import tokens_per_s_per_gpu, tokens_per_s_per_user, tokens_per_s_per_working_gpu
from dynamoc.launcher.results.record import RequestRecord, drift_of, in_flight_p50
from dynamoc.launcher.results.row import Row, Spread
from dynamoc.launcher.results.verdict import RULES, Standing, judge
from dynamoc.runtime.manifest import Launch, Manifest, ModelRef, ProcessSpec, Role


def row(**changes: Any) -> Row:
    """One hundred requests of 512 + 64 tokens on eight GPUs, as they should be."""
    fields: dict[str, Any] = {
        "point": "c8",
        "run": "r",
        "model": "m",
        "tool": "builtin",
        "tool_version": "1",
        "started": 0.0,
        "ended": 10.0,
        "isl_asked": 512,
        "osl_asked": 64,
        "isl": 512.0,
        "osl": 64.0,
        "concurrency": 8,
        "request_rate": None,
        "effective_concurrency": 7.9,
        "requests": 100,
        "completed": 100,
        "failed": 0,
        "duration_s": 10.0,
        "requests_per_s": 10.0,
        "output_tokens_per_s": 640.0,
        "input_tokens_per_s": 5120.0,
        "ttft_ms": Spread(avg=50.0),
        "tpot_ms": Spread(avg=20.0),
        "itl_ms": None,
        "e2e_ms": Spread(avg=790.0),
        "gpus_allocated": 8,
        "gpus_working": 8,
        "transports": ("nixl",),
        "transports_declared": ("nixl",),
        "warmup_requests": 8,
        "e2e_drift": 0.02,
        "throttled_share": 0.0,
    }
    return Row(**{**fields, **changes})


def test_a_result_as_it_should_be_is_valid() -> None:
    assert judge(row()).standing is Standing.VALID
    assert judge(row()).reasons == ()


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("tokens", {"completed": 0, "failed": 100}, "invalid", "none of 100 requests was completed"),
    (
        "tokens",
        {"output_tokens_per_s": 0.0, "osl": 0.0},
        "invalid",
        "100 requests were completed, and no token came out",
    ),
    ("complete", {"complete": False, "completed": 60}, "invalid", "not over before its end: 60 of 100 requests made"),
    ("complete", {"completed": 90}, "suspect", "100 requests, and 90 completed + 0 failed of them are known"),
    ("errors", {"completed": 98, "failed": 2}, "suspect", "2 of 100 requests failed, 2.0% > 1%"),
    ("errors", {"completed": 80, "failed": 20}, "invalid", "20 of 100 requests failed, 20.0% > 1%"),
    ("output-length", {"osl": 62.0}, "suspect", "62 tokens a request, 64 were asked for, off by 3.1%"),
    ("output-length", {"osl": 16.0}, "invalid", "16 tokens a request, 64 were asked for, off by 75.0%"),
    ("prompt-length", {"isl": 450.0}, "suspect", "prompts of 450 tokens, 512 were asked for, off by 12.1%"),
    ("prompt-length", {"isl": 700.0}, "invalid", "prompts of 700 tokens, 512 were asked for, off by 24.2%"),
    (
        "client-limited",
        {"client_limited": True, "client_limit": "5 < 7.2"},
        "suspect",
        "the client was the limit: 5 < 7.2",
    ),
    ("transport", {"transports": ("nixl", "tcp")}, "invalid", "KV moved by `tcp`; the plan declares `nixl`"),
    ("transport", {"transports": ()}, "suspect", "the plan declares transport `nixl`, and it moved no block"),
    ("idle-gpus", {"gpus_working": 6}, "suspect", "2 of 8 allocated GPUs are idle; figures per GPU divide by 8"),
    ("idle-workers", {"idle_workers": ("decode-1",)}, "suspect", "no request reached `decode-1`: what is allocated"),
    ("clocks", {"throttled_share": 0.2}, "suspect", "GPUs were throttled for 20.0% of the time > 5%"),
    (
        "synthetic-acceptance",
        {"synthetic": ("X=2.5",)},
        "suspect",
        "accepted draft tokens are made up, not the model's: X=2.5",
    ),
    ("warm-up", {"warmup_requests": 0}, "suspect", "no warm-up"),
    ("steady-state", {"e2e_drift": 0.4}, "suspect", "requests of the second half took 40% longer > 10%"),
    ("steady-state", {"e2e_drift": -0.4}, "suspect", "requests of the second half took 40% shorter > 10%"),
]


@pytest.mark.parametrize(("rule", "changes", "standing", "text"), BAD)
def test_what_is_wrong_is_said_by_its_rule_with_figures(
    rule: str, changes: dict[str, Any], standing: str, text: str
) -> None:
    verdict = judge(row(**changes))
    found = [reason for reason in verdict.reasons if reason.rule == rule]

    assert [reason.standing for reason in found] == [standing]
    assert text in found[0].text
    assert verdict.standing == max((r.standing for r in verdict.reasons), key=["valid", "suspect", "invalid"].index)


def test_every_rule_has_a_row_that_breaks_it() -> None:
    assert {rule for rule, *_ in BAD} == set(RULES)


@pytest.mark.parametrize(
    "changes",
    [
        {"completed": 99, "failed": 1},
        {"osl": 63.5},
        {"isl": 570.0},  # a chat template
        {"isl": 490.0},
        {"isl_asked": None, "isl": 3000.0},
        {"osl_asked": None, "osl": 3.0},
        {"gpus_allocated": None, "gpus_working": None},
        {"gpus_allocated": 0, "gpus_working": 0},
        {"transports": None},
        {"warmup_requests": None, "e2e_drift": None, "throttled_share": None},
        {"e2e_drift": 0.1},
    ],
)
def test_what_may_be_so_is_not_held_against_it(changes: dict[str, Any]) -> None:
    assert judge(row(**changes)).reasons == ()


def test_figures_per_gpu_divide_by_those_that_are_paid_for() -> None:
    found = row(gpus_working=4)

    assert tokens_per_s_per_gpu(found) == 80.0
    assert tokens_per_s_per_working_gpu(found) == 160.0
    assert tokens_per_s_per_user(found) == 50.0
    assert tokens_per_s_per_gpu(row(gpus_allocated=0)) is None


def record(index: int, started: float, e2e_ms: float) -> RequestRecord:
    return RequestRecord(index=index, started=started, e2e_ms=e2e_ms, input_tokens=1, output_tokens=1)


def test_requests_in_flight_for_half_of_the_time() -> None:
    """Two for 1 s, then one for 2 s; then nobody for 1 s, and one for 1 s."""
    spans = [(0.0, 1000.0), (0.0, 3000.0), (4.0, 1000.0)]

    assert in_flight_p50([record(n, begin, took) for n, (begin, took) in enumerate(spans)]) == 1.0
    assert in_flight_p50([record(n, n % 2 * 0.5, 1000.0) for n in range(8)]) == 4.0
    assert in_flight_p50([]) == 0.0


def test_a_drift_is_one_that_is_more_than_noise() -> None:
    noise = [(-1) ** n * 5.0 for n in range(40)]
    steady = [record(n, n, 100.0 + noise[n]) for n in range(40)]
    rising = [record(n, n, 100.0 + noise[n] + 5 * n) for n in range(40)]
    wild = [record(n, n, 100.0 + 99.0 * (n % 7 == 0)) for n in range(40)]

    assert drift_of(steady, 4) == 0.0
    assert drift_of(wild, 4) == 0.0
    assert drift_of(rising, 4) == pytest.approx(0.52, abs=0.05)
    assert drift_of(rising[:20], 4) is None, "too few to tell"
    assert drift_of([record(n, n, 900.0 if n < 4 else 100.0) for n in range(40)], 4) == 0.0, "the start is left out"


@pytest.mark.parametrize(
    ("process", "found"),
    [
        (
            {"env": {"SGLANG_SIMULATE_ACC_LEN": "2.49", "SGLANG_SIMULATE_ACC_METHOD": "match-expected"}},
            ("SGLANG_SIMULATE_ACC_LEN=2.49",),
        ),
        ({"env": {"SGLANG_SIMULATE_ACC_LEN": "-1"}}, ()),
        (
            {"launch": Launch(words=("x",), env={"TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS": "2"})},
            ("TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS=2",),
        ),
        (
            {"launch": Launch(words=("--speculative-config", '{"synthetic_acceptance_length": 2.5}'))},
            ("synthetic_acceptance_length=2.5",),
        ),
        (
            {"launch": Launch(words=("x",), files={"a.yaml": "rejection_sample_method: synthetic\n"})},
            ("rejection_sample_method=synthetic",),
        ),
        ({"launch": Launch(words=("--speculative-config", '{"num_speculative_tokens": 3}'))}, ()),
    ],
)
def test_made_up_acceptance_is_found_in_what_engines_are_told(process: dict[str, Any], found: tuple[str, ...]) -> None:
    spec = ProcessSpec(name="w", component="w", role=Role.DECODE, replica=0, node=0, argv=(), **process)
    manifest = Manifest(
        version=1, name="x", plan_hash="", model=ModelRef(ref="m", served_name="m"), nodes=1, processes=(spec, spec)
    )

    assert synthetic_acceptance(manifest) == found


def test_every_rule_is_in_the_page_that_explains_verdicts() -> None:
    page = (Path(__file__).parents[3] / "docs/results.md").read_text()

    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(RULES)
