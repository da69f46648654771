"""The load of an srt-slurm recipe, and how long it may run."""

from __future__ import annotations

import re
from typing import Any

from dynamoc.compiler.importers.recipe import Fields, text_of, without_nothing
from dynamoc.compiler.units import QuantityError, parse_time_limit

_LIST = re.compile(r"[0-9]{1,9}(?:x[0-9]{1,9})*")


def load_of(fields: Fields) -> dict[str, Any] | None:
    """None where the benchmark has no lengths; then its fields stay unmapped."""
    isl, osl = (_count(fields.get("benchmark", name)) for name in ("isl", "osl"))
    if isl is None or osl is None:
        return None
    fields.take("benchmark", "isl")
    fields.take("benchmark", "osl")
    concurrency = concurrencies(fields.get("benchmark", "concurrencies"))
    if concurrency:
        fields.take("benchmark", "concurrencies")
    rate = _rate(fields.get("benchmark", "req_rate"))
    if rate is not None:
        fields.take("benchmark", "req_rate")
    return without_nothing({"isl": isl, "osl": osl, "concurrency": concurrency or None, "request_rate": rate})


def concurrencies(written: Any) -> list[int]:
    """`4x8x16`, a list, or one number; empty where it is none of these."""
    if isinstance(written, list):
        counts = [_count(item) for item in written]
        return [count for count in counts if count] if all(counts) else []
    text = "" if written is None else text_of(written)
    return [int(part) for part in text.split("x")] if _LIST.fullmatch(text) and "0" not in text.split("x") else []


def time_limit_of(fields: Fields) -> str | None:
    """`slurm.time_limit` where it is a time our spec can say."""
    written = fields.get("slurm", "time_limit")
    if written is None:
        return None
    try:
        parse_time_limit(text_of(written))
    except QuantityError:
        return None
    return text_of(fields.take("slurm", "time_limit"))


def _count(written: Any) -> int | None:
    if written is None or isinstance(written, bool | list | dict):
        return None
    text = text_of(written)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and int(text) else None


def _rate(written: Any) -> str | float | None:
    text = "" if written is None or isinstance(written, bool | list | dict) else text_of(written)
    if text.lower() == "inf":
        return "inf"
    return float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) and float(text) > 0 else None
