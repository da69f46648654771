"""A plan's estimate: each load's latencies and rates as an estimator has them, with what they are worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from dynamoc.compiler.load_plan import gpus_working
from dynamoc.compiler.plan import Plan
from dynamoc.launcher.prediction.aiconfigurator import Aiconfigurator, installed
from dynamoc.launcher.prediction.bands import RELEASE, spell
from dynamoc.launcher.prediction.mapping import NotMapped, to_questions
from dynamoc.launcher.prediction.question import Answer, Question

MS = 1000.0


class Estimate(msgspec.Struct, frozen=True):
    """One load. Rates are bounded by the requests in flight and by the slower pool, which is `binding`."""

    load: str
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    tokens_per_s_per_user: float
    requests_per_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    """Of the GPUs that work."""
    binding: str
    engine_version: str
    formats: dict[str, str]
    warning: str | None


class Prediction(msgspec.Struct, frozen=True):
    """Estimates, not measurements. `bands` say how far they may be off, `left_out` what they know nothing of."""

    estimator: str
    estimates: tuple[Estimate, ...]
    not_estimated: tuple[NotMapped, ...]
    bands: tuple[str, ...]
    left_out: tuple[str, ...]


def predict(plan: Plan, estimator: Aiconfigurator | None = None) -> Prediction:
    """Ask the estimator, the installed one if none is given; PredictionError. Nobody is asked what cannot be mapped."""
    mapped = to_questions(plan)
    if not mapped.questions:
        return Prediction("aiconfigurator", (), mapped.not_mapped, (), ())
    found = (estimator or installed()).ask(mapped.questions)
    gpus = gpus_working(plan)
    pairs = list(zip(mapped.questions, found.answers, strict=True))
    refused = tuple(NotMapped(q.id, _refusal(q, a.refused)) for q, a in pairs if a.refused is not None)
    estimates = tuple(_estimate(q, a, gpus) for q, a in pairs if a.refused is None)
    asked = mapped.questions[0]
    bands = spell(asked.pool.system, asked.engine, disaggregated=asked.prefill is not None)
    other = () if found.release == RELEASE else (f"these errors are of aiconfigurator {RELEASE}",)
    return Prediction(
        estimator=f"aiconfigurator {found.release}",
        estimates=estimates,
        not_estimated=mapped.not_mapped + refused,
        bands=bands + other if estimates else (),
        left_out=mapped.left_out + tuple(_taken(asked, estimates[0])) if estimates else (),
    )


def _estimate(question: Question, answer: Answer, gpus: int) -> Estimate:
    assert answer.ttft_ms is not None
    assert answer.tpot_ms is not None
    assert answer.request_ms is not None
    assert answer.version is not None
    rates = {"load": question.concurrency * MS / answer.request_ms} | answer.rates
    binding = min(rates, key=rates.__getitem__)
    tokens = rates[binding] * question.osl
    return Estimate(
        load=question.id,
        concurrency=question.concurrency,
        ttft_ms=answer.ttft_ms,
        tpot_ms=answer.tpot_ms,
        tokens_per_s_per_user=MS / answer.tpot_ms,
        requests_per_s=rates[binding],
        tokens_per_s=tokens,
        tokens_per_s_per_gpu=tokens / gpus,
        binding=binding,
        engine_version=answer.version,
        formats=answer.formats,
        warning=answer.warning,
    )


def _refusal(question: Question, said: str) -> str:
    """Its own words, and what helps where the model may be what it does not know."""
    named = not Path(question.model).is_dir()
    remedy = "; it knows the models it carries, and folders with a config.json: `model.path` may name one"
    return f"aiconfigurator: {said}{remedy if named and question.model in said else ''}"


def _taken(asked: Question, found: Estimate) -> Iterator[str]:
    """What it took something else for, or chose itself."""
    if asked.version != found.engine_version:
        version = asked.version or "of no stated version"
        yield f"{asked.engine} {version}: the measurements are of {found.engine_version}"
    if asked.kv_format is None and "kvcache" in found.formats:
        yield f"the format of KV, which the spec leaves to the engine: {found.formats['kvcache']} was taken"
