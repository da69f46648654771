"""What a result is worth: valid, suspect or invalid, and every reason why. A pure function of its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from dynamoc.launcher.results.row import Row


class Standing(StrEnum):
    """Only a valid result enters a frontier."""

    VALID = "valid"
    SUSPECT = "suspect"
    """The figures are what was seen; whether they are the pipeline's is in doubt."""
    INVALID = "invalid"
    """The figures are not those of the load that was asked for."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule holds against a result."""

    rule: str
    standing: Standing
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst standing of all reasons; without any, valid."""

    standing: Standing
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class _Limits:
    """Up to `fine` nothing is said, up to `suspect` it is suspect, beyond it is invalid."""

    fine: float
    suspect: float

    def standing(self, value: float) -> Standing:
        if value <= self.fine:
            return Standing.VALID
        return Standing.SUSPECT if value <= self.suspect else Standing.INVALID


OUTPUT_ERROR = _Limits(0.01, 0.1)
PROMPT_ERROR = _Limits(0.05, 0.2)
TEMPLATE_TOKENS = 64
"""A chat template may add as many to a prompt."""
FAILED_SHARE = _Limits(0.01, 0.1)
DRIFT = 0.1
THROTTLED_SHARE = 0.05

Finding = tuple[Standing, str]


def judge(row: Row) -> Verdict:
    """Every rule's reason. A rule whose facts the row does not have says nothing."""
    reasons = tuple(Reason(name, *found) for name, rule in RULES.items() for found in rule(row))
    worst = max((reason.standing for reason in reasons), key=list(Standing).index, default=Standing.VALID)
    return Verdict(worst, reasons)


def _tokens(row: Row) -> Iterator[Finding]:
    if not row.completed:
        yield Standing.INVALID, f"none of {row.requests} requests was completed"
    elif row.output_tokens_per_s <= 0 or row.osl <= 0:
        yield Standing.INVALID, f"{row.completed} requests were completed, and no token came out"


def _complete(row: Row) -> Iterator[Finding]:
    if not row.complete:
        yield Standing.INVALID, f"not over before its end: {row.completed + row.failed} of {row.requests} requests made"
    elif row.completed + row.failed != row.requests:
        seen = f"{row.completed} completed + {row.failed} failed"
        yield Standing.SUSPECT, f"{row.requests} requests, and {seen} of them are known"


def _errors(row: Row) -> Iterator[Finding]:
    known = row.completed + row.failed
    standing = FAILED_SHARE.standing(row.failed / known) if known else Standing.VALID
    if standing is not Standing.VALID:
        share = f"{row.failed} of {known} requests failed, {row.failed / known:.1%}"
        yield standing, f"{share} > {FAILED_SHARE.fine:.0%}"


def _output_length(row: Row) -> Iterator[Finding]:
    if not row.osl_asked or not row.completed:
        return
    error = abs(row.osl - row.osl_asked) / row.osl_asked
    standing = OUTPUT_ERROR.standing(error)
    if standing is not Standing.VALID:
        yield standing, f"{row.osl:g} tokens a request, {row.osl_asked} were asked for, off by {error:.1%}"


def _prompt_length(row: Row) -> Iterator[Finding]:
    if not row.isl_asked or not row.completed or not row.isl:
        return
    excess = row.isl - row.isl_asked
    error = max(-excess, excess - TEMPLATE_TOKENS, 0.0) / row.isl_asked
    standing = PROMPT_ERROR.standing(error)
    if standing is not Standing.VALID:
        yield standing, f"prompts of {row.isl:g} tokens, {row.isl_asked} were asked for, off by {error:.1%}"


def _client(row: Row) -> Iterator[Finding]:
    if row.client_limited:
        yield Standing.SUSPECT, f"the client was the limit: {row.client_limit or 'it was as busy as it can be'}"


def _transport(row: Row) -> Iterator[Finding]:
    if row.transports is None or row.transports_declared is None:
        return
    used, declared = set(row.transports), set(row.transports_declared)
    for transport in sorted(used - declared):
        says = ", ".join(f"`{name}`" for name in sorted(declared)) or "none"
        yield Standing.INVALID, f"KV moved by `{transport}`; the plan declares {says}"
    for transport in sorted(declared - used):
        yield Standing.SUSPECT, f"the plan declares transport `{transport}`, and it moved no block"


def _idle_gpus(row: Row) -> Iterator[Finding]:
    if row.gpus_allocated and row.gpus_working is not None and row.gpus_working < row.gpus_allocated:
        idle = row.gpus_allocated - row.gpus_working
        says = f"{idle} of {row.gpus_allocated} allocated GPUs are idle"
        yield Standing.SUSPECT, f"{says}; figures per GPU divide by {row.gpus_allocated}"


def _idle_workers(row: Row) -> Iterator[Finding]:
    if row.idle_workers:
        names = ", ".join(f"`{name}`" for name in row.idle_workers)
        yield Standing.SUSPECT, f"no request reached {names}: what is allocated to them counts and did nothing"


def _clocks(row: Row) -> Iterator[Finding]:
    share = row.throttled_share
    if share is not None and share > THROTTLED_SHARE:
        yield Standing.SUSPECT, f"GPUs were throttled for {share:.1%} of the time > {THROTTLED_SHARE:.0%}"


def _acceptance(row: Row) -> Iterator[Finding]:
    if row.synthetic:
        yield Standing.SUSPECT, f"accepted draft tokens are made up, not the model's: {', '.join(row.synthetic)}"


def _warmup(row: Row) -> Iterator[Finding]:
    if row.warmup_requests == 0:
        yield Standing.SUSPECT, "no warm-up: the first requests, which fill caches and compile, are in the figures"


def _steady(row: Row) -> Iterator[Finding]:
    if row.e2e_drift is not None and abs(row.e2e_drift) > DRIFT:
        how = "longer" if row.e2e_drift > 0 else "shorter"
        says = f"not steady: requests of the second half took {abs(row.e2e_drift):.0%} {how}"
        yield Standing.SUSPECT, f"{says} > {DRIFT:.0%}"


RULES: dict[str, Callable[[Row], Iterator[Finding]]] = {
    "tokens": _tokens,
    "complete": _complete,
    "errors": _errors,
    "output-length": _output_length,
    "prompt-length": _prompt_length,
    "client-limited": _client,
    "transport": _transport,
    "idle-gpus": _idle_gpus,
    "idle-workers": _idle_workers,
    "clocks": _clocks,
    "synthetic-acceptance": _acceptance,
    "warm-up": _warmup,
    "steady-state": _steady,
}
