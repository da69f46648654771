"""What importers share: careful looks into JSON of others, and rows with what a tool does not tell left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dynamoc.launcher.results.importers.fault import ImportFault
from dynamoc.launcher.results.row import Row, Spread

Fields = Mapping[str, Any]
STATISTICS = ("avg", "p50", "p90", "p95", "p99")
UNKNOWN: dict[str, object] = {
    "started": None,
    "ended": None,
    "isl_asked": None,
    "osl_asked": None,
    "concurrency": None,
    "request_rate": None,
    "effective_concurrency": None,
    "ttft_ms": None,
    "tpot_ms": None,
    "itl_ms": None,
    "e2e_ms": None,
}


def look(data: Any, *path: str | int) -> Any:
    """What is there, None where anything on the way is not."""
    for key in path:
        if isinstance(key, int) and isinstance(data, list):
            data = data[key] if key < len(data) else None
        elif isinstance(data, Mapping):
            data = data.get(key)
        else:
            return None
    return data


def number(data: Any, *path: str | int) -> float | None:
    """A finite number that is there, else None."""
    found = look(data, *path)
    usable = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if usable else None


def whole(data: Any, *path: str | int) -> int | None:
    """A number as a count."""
    found = number(data, *path)
    return None if found is None else round(found)


def needed(place: Path | str, data: Any, *path: str | int) -> float:
    """A number without which there is no result; ImportFault."""
    found = number(data, *path)
    if found is None:
        raise ImportFault(f"{place}: `{'.'.join(str(key) for key in path)}` is not there, or not a number")
    return found


def spread(found: Fields | None, scale: float = 1.0) -> Spread | None:
    """Of a metric with statistics by our names; None without a mean."""
    values = {name: None if (v := number(found, name)) is None else round(v * scale, 4) for name in STATISTICS}
    return None if values["avg"] is None else msgspec.convert(values, Spread)


def text(data: Any, *path: str | int) -> str:
    """Words that are there, else none."""
    found = look(data, *path)
    return found if isinstance(found, str) else ""


def row_from(place: Path | str, fields: Fields) -> Row:
    """A row of what a tool tells; ImportFault where that is not what it can be."""
    rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
    try:
        return msgspec.convert({**UNKNOWN, **rounded}, Row, from_attributes=True)
    except msgspec.ValidationError as error:
        raise ImportFault(f"{place}: {error}") from error
