"""Samples of a page of metrics; only lines that are wanted are parsed, as such a page has many."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def sums_of(page: str, names: Collection[str]) -> Mapping[str, float]:
    """The sum of all samples of each of these metrics, of those that are there."""
    sums: dict[str, float] = {}
    for sample in _samples(page, names):
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def labels_of(page: str, name: str) -> Mapping[str, str]:
    """The labels of a metric's first sample; none if there is no such metric."""
    sample = next(_samples(page, {name}), None)
    return {} if sample is None else sample.labels


def _samples(page: str, names: Collection[str]) -> Iterator[Sample]:
    lines = [line for line in page.splitlines() if line.partition("{")[0].partition(" ")[0] in names]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        yield from family.samples
