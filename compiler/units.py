"""Sizes and durations as people write them: `200 GiB`, `30 ms`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SIZE = r"^[0-9]+(\.[0-9]+)? ?(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)$"
DURATION = r"^[0-9]+(\.[0-9]+)? ?(ms|s|min|h)$"
TIME_LIMIT = DURATION.removesuffix("$") + r"$|^([0-9]{1,4}-)?[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$"

SIZE_UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
LARGEST_COUNT_OF_MIB = 65536
"""A size without a unit up to here was probably meant in MiB, above in bytes."""
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}

_CLOCK = re.compile(r"(?:([0-9]{1,4})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", re.ASCII)
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]*)", re.ASCII)
_USUAL = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "sec": "s", "seconds": "s", "minutes": "min", "hours": "h"}


class QuantityError(ValueError):
    """Not a size or duration; `near` is what was probably meant."""

    def __init__(self, kind: str, units: Mapping[str, float], near: str | None) -> None:
        super().__init__(f"expected a {kind} such as `{'512 MiB' if kind == 'size' else '2 s'}`")
        self.near = near
        self.units = tuple(units)


def parse_size(value: Any) -> int:
    """Bytes of `512 MiB`; decimal units (`MB`) are powers of ten."""
    return int(_parse("size", value, SIZE_UNITS))


def parse_duration(value: Any) -> float:
    """Seconds of `30 ms`."""
    return _parse("duration", value, DURATION_UNITS)


def parse_time_limit(value: Any) -> float:
    """Seconds of `4:00:00`, of `1-12:00:00` (a day and a half) or of a duration such as `90 min`."""
    text = as_written(value)
    match = _CLOCK.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return parse_duration(value)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    limit = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if limit <= 0:
        raise QuantityError("duration", DURATION_UNITS, "1 h")
    return limit


def as_written(value: Any) -> Any:
    """The text of a number that stands where a text belongs: the version `1.10`."""
    return getattr(value, "written", value)


def _parse(kind: str, value: Any, units: Mapping[str, float]) -> float:
    text = as_written(value)
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise QuantityError(kind, units, None)
    number, unit = match.groups()
    if unit not in units:
        folded = {known.lower(): known for known in units} | {k: v for k, v in _USUAL.items() if v in units}
        likely = "s" if kind == "duration" else "B" if float(number) > LARGEST_COUNT_OF_MIB else "MiB"
        near = folded.get(unit.lower()) if unit else likely
        raise QuantityError(kind, units, near and f"{number} {near}")
    quantity = float(number) * units[unit]
    if quantity <= 0 or (kind == "size" and quantity < 1):
        raise QuantityError(kind, units, f"1 {unit}")
    return quantity


def spell_count(number: int, noun: str) -> str:
    """`1 GPU`, `8 GPUs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
