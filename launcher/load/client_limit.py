"""Whether the client, not the pipeline, was the limit of a load."""

from __future__ import annotations

from collections.abc import Sequence

from dynamoc.launcher.load.point import LoadPoint
from dynamoc.launcher.results.record import RequestRecord, in_flight_p50
from dynamoc.launcher.results.row import percentile

BUSY = 0.9
"""Share of the time from which on one event loop that runs, or waits for a core, may be the limit."""
FILLED = 0.9
WAVES = 3
MILLI = 1000.0


def client_limit(
    point: LoadPoint, records: Sequence[RequestRecord], late_s: Sequence[float], busy: float | None
) -> str | None:
    """The figures that show it; None where nothing does, or nothing was answered.

    Fewer requests in flight, for half of the time, than 0.9 of what was asked for; or requests sent later than they
    were due by more than the answer takes to begin; or an event loop that was `busy`, where that is known.
    """
    answers = sorted(record.ttft_ms for record in records if record.error is None and record.ttft_ms is not None)
    if not answers:
        return None
    if busy is not None and busy > BUSY:
        return f"its event loop was busy for {busy:.0%} of the time > {BUSY:.0%}"
    if point.concurrency is not None and point.rate is None and point.trace is None:
        asked, seen = point.concurrency, in_flight_p50(records)
        if len(records) >= WAVES * asked and seen < FILLED * asked:
            return f"{seen:g} requests in flight (p50) < {FILLED:g} x {asked} asked for"
    if late_s:
        late, answer = percentile(sorted(late_s), 95) * MILLI, percentile(answers, 50)
        if late > answer:
            return f"requests were sent {late:.1f} ms late (p95) > TTFT of {answer:.1f} ms (p50)"
    return None
