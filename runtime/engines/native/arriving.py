"""A step whose prompts are still being loaded: each layer is computed when it is there for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dynamoc.runtime.kv.tiers.load import Load

PATIENCE_S = 1.0
"""For the layers of one step, all waits together. It begins only when none is foreseen, and others wait with it."""


class NotArrivedError(Exception):
    """Layers that a step needs did not come, or not in time: nothing of the step counts."""


class Arriving:
    """The loads of one step, of pools with groups of so many layers. Used from the engine's thread."""

    def __init__(self, loads: Sequence[Load], group_layers: int) -> None:
        self.waited_s = 0.0
        self._loads = loads
        self._group_layers = group_layers
        self._groups = max((load.groups for load in loads), default=0)
        self._there = 0

    @property
    def is_complete(self) -> bool:
        """Whether every layer was found to be there: from now on nothing can go wrong any more."""
        return self._there == self._groups

    def need(self, layer: int) -> None:
        """Return when the blocks of every load have this layer and all before it; NotArrivedError."""
        wanted = min(layer // self._group_layers + 1, self._groups)
        if wanted <= self._there:
            return
        began = time.monotonic()
        try:
            for load in self._loads:
                for group in range(self._there, wanted):
                    left = PATIENCE_S - self.waited_s - (time.monotonic() - began)
                    if not load.wait(group, max(0.0, left)):
                        raise NotArrivedError(
                            f"group {group} of {load.groups} of the layers of {len(load.blocks)} blocks"
                        )
        finally:
            self.waited_s += time.monotonic() - began
        self._there = wanted
