"""The frontend's metrics, looked up once, and a histogram that is cheap enough to see every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from dynamoc.runtime.metrics import METRICS, Metrics


class Instruments:
    """Bound to the table of `runtime/metrics.py`."""

    def __init__(self, metrics: Metrics) -> None:
        self.requests = metrics.counter("dynamoc_frontend_requests_total")
        self.prompt_tokens = metrics.counter("dynamoc_frontend_prompt_tokens_total")
        self.cached_tokens = metrics.counter("dynamoc_frontend_cached_tokens_total")
        self.output_tokens = metrics.counter("dynamoc_frontend_output_tokens_total")
        self.first_token_seconds = metrics.histogram("dynamoc_frontend_time_to_first_token_seconds")
        self.gap_seconds = TokenHistogram("dynamoc_frontend_inter_token_latency_seconds")
        self.request_seconds = metrics.histogram("dynamoc_frontend_request_seconds")
        self.disconnects = metrics.counter("dynamoc_frontend_disconnects_total")
        self.replays = metrics.counter("dynamoc_frontend_replays_total")
        metrics.registry.register(self.gap_seconds)


class TokenHistogram(Collector):
    """A metric of the table, observed from one thread only: without locks it costs a quarter of the library's."""

    def __init__(self, name: str) -> None:
        (self._metric,) = (metric for metric in METRICS if metric.name == name)
        self._bounds = self._metric.buckets
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int) -> None:
        """Count a value; tokens that arrive together share the gap before them."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scrape reads."""
        bounds = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._metric.name, self._metric.doc, buckets=buckets, sum_value=self._sum)
