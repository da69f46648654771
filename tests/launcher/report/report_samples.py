"""Results to report on: every kind of point, and texts that want to be markup."""

from __future__ import annotations

from pathlib import Path

from result_rows import row, spread

from dynamoc.compiler.campaign.limits import read_limit
from dynamoc.launcher.analysis.cost import Holding
from dynamoc.launcher.report.points import Failed, Measured, PrunedPoint, Results

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">&amp;<b>'\u2028"
SPEC = f"dynamoc: 1\nname: sample\nnote: '{HOSTILE[:9]}'\n"


def measured(name: str, tpot: float, tokens: float, concurrency: int = 4, **fields: object) -> Measured:
    one = row(
        name,
        run="deployment-a",
        tpot_ms=spread(tpot),
        output_tokens_per_s=tokens,
        requests_per_s=tokens / 20,
        concurrency=concurrency,
        **fields,
    )
    return Measured(name, "deployment-a", (one,), {"components.decode.replicas": name}, SPEC, Path("/runs/a b/x"))


def samples() -> Results:
    """Two on the frontier, one behind, one suspect, one invalid, one hostile; a failure; two pruned."""
    return Results(
        title=f"sample {HOSTILE}",
        measured=(
            measured("fast", 10.0, 40.0, 1),
            measured("full", 40.0, 400.0, 16, ttft_ms=spread(900.0)),
            measured("behind", 50.0, 30.0, 2),
            measured("limited", 5.0, 900.0, 8, client_limited=True),
            measured("empty", 5.0, 900.0, 8, completed=0, failed=10),
            measured(HOSTILE, 20.0, 200.0, 4),
        ),
        failed=(Failed("broken", f"engine: {HOSTILE}", {"x": HOSTILE}, SPEC, Path("/runs/javascript:alert(1)")),),
        pruned=(PrunedPoint("D301", HOSTILE, ("16 > 8",), {"tp": "16"}), PrunedPoint("D301", "too large")),
        limits=(read_limit("ttft_ms@p95 <= 500"),),
        holdings=(Holding(4, 0.0, 3600.0, 1800.0),),
    )
