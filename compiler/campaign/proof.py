"""Proves the specs that a campaign makes: what is wrong is shown where the campaign, or its base, says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynamoc.compiler.cluster import Cluster
from dynamoc.compiler.diagnostics import Change, Edit, Path, Reporter, Span
from dynamoc.compiler.edits import value_at
from dynamoc.compiler.models import ModelLibrary
from dynamoc.compiler.pipeline import Proof, prove
from dynamoc.compiler.source import Source
from dynamoc.compiler.target import Target


class Prover:
    """Of one campaign."""

    def __init__(
        self,
        campaign: Source,
        base: Source,
        cluster: Cluster,
        target: Target,
        models: Callable[[Source], ModelLibrary],
    ) -> None:
        self._campaign = campaign
        self._base = base
        self._cluster = cluster
        self._target = target
        self._models = models
        self._libraries: dict[str, ModelLibrary] = {}

    def prove(self, data: Any, writers: Mapping[Path, Path], load: Path) -> Proof:
        """A spec as plain data. `writers` are where in the campaign its fields were said, `load` where its load was."""
        source = Source(self._base.name, self._base.text, data, traces=self._campaign.traces)
        places = _Places(self._campaign, self._base, data, {**writers, ("load",): load})
        report = Reporter(places.locate, _no_edits, places.home)
        return prove(source, self._cluster, self._library(source), self._target, report)

    def _library(self, source: Source) -> ModelLibrary:
        """Facts of the model, read once for each that the campaign names."""
        key = repr(source.data.get("model"))
        if key not in self._libraries:
            self._libraries[key] = self._models(source)
        return self._libraries[key]


def _no_edits(changes: Sequence[Change]) -> tuple[Edit, ...] | None:
    """A help for one point need not be one for the campaign: it is said, and not applied."""
    del changes
    return None


class _Places:
    def __init__(self, campaign: Source, base: Source, data: Any, writers: Mapping[Path, Path]) -> None:
        self._campaign = campaign
        self._base = base
        self._data = data
        self._writers = writers

    def locate(self, path: Path, key: bool) -> Span:
        """In the campaign where that wrote the field or what it is part of, else in the base."""
        for end in range(len(path), 0, -1):
            writer = self._writers.get(path[:end])
            if writer is not None:
                return self._campaign.locate((*writer, *path[end:]), key)
        return self._base.locate(path, key)

    def home(self, path: Path) -> Path:
        """Where what a worker has from `defaults` is written."""
        if path[:1] != ("components",) or len(path) < 3 or _is_in(self._data, path):
            return path
        inherited = ("defaults", *path[2:])
        return inherited if _is_in(self._data, inherited) else path


def _is_in(data: Any, path: Path) -> bool:
    for word in path:
        in_list = isinstance(data, list) and isinstance(word, int) and word < len(data)
        if not in_list and not (isinstance(data, dict) and word in data):
            return False
        data = value_at(data, (word,))
    return True
