"""Seeded draws that are the same everywhere and for ever: each is a hash of its seed, its name and its number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from dynamoc.compiler.campaign.spec import DrawSpec, RangeSpec

SCALE = 2.0**64


def random_rows(draw: DrawSpec) -> list[dict[str, Any]]:
    """Independent draws of every name."""
    return [
        {name: _value(span, _share(draw, name, str(number))) for name, span in draw.of.items()}
        for number in range(draw.count)
    ]


def latin_rows(draw: DrawSpec) -> list[dict[str, Any]]:
    """Draws of which every name has one in each of `count` equal slices of its range."""
    columns = {name: _column(draw, name, span) for name, span in draw.of.items()}
    return [{name: column[number] for name, column in columns.items()} for number in range(draw.count)]


def _column(draw: DrawSpec, name: str, span: RangeSpec) -> list[Any]:
    order = sorted(range(draw.count), key=lambda number: _share(draw, name, f"order {number}"))
    return [_value(span, (place + _share(draw, name, str(number))) / draw.count) for number, place in enumerate(order)]


def _share(draw: DrawSpec, name: str, which: str) -> float:
    """At least 0, below 1."""
    digest = hashlib.sha256(f"{draw.seed or 0}/{name}/{which}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / SCALE


def _value(span: RangeSpec, share: float) -> Any:
    if span.any_of is not None:
        return _one_of(span.any_of, share)
    assert span.min is not None
    assert span.max is not None
    low, high = span.min, span.max
    whole = isinstance(low, int) and isinstance(high, int) if span.integer is None else span.integer
    top = high + 1 if whole else high
    if span.log:
        number = math.exp(math.log(low) + share * (math.log(top) - math.log(low)))
    else:
        number = low + share * (top - low)
    return min(int(number), int(high)) if whole else min(round(number, 6), float(high))


def _one_of(values: Sequence[Any], share: float) -> Any:
    return values[min(int(share * len(values)), len(values) - 1)]
