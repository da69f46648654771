"""What the tasks of an array run: `array.json`."""

from __future__ import annotations

import msgspec

FILE = "array.json"


class ArrayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Task k runs the job in `points[k]`."""

    name: str
    points: tuple[str, ...]
