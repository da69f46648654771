"""Plain scalars by the YAML 1.2 core schema. Numbers remember how they were written."""

from __future__ import annotations

import re
from typing import Any, TypeVar

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,400}", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]{1,400}", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]{1,400}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,400}|[0-9]{1,400}(?:\.[0-9]{0,400})?)(?:[eE][-+]?[0-9]{1,9})?", re.ASCII)
_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


class WrittenInt(int):
    """An integer that knows its text, so that `010` can also be read as a name."""

    written: str


class WrittenFloat(float):
    """A float that knows its text: the version `1.10` is not `1.1`."""

    written: str


Number = TypeVar("Number", WrittenInt, WrittenFloat)


def resolve_plain(text: str) -> Any:
    """The value of an unquoted scalar: null, bool, int, float or the text itself."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return _written(WrittenInt(text), text)
    if _OCTAL.fullmatch(text):
        return _written(WrittenInt(text[2:], 8), text)
    if _HEX.fullmatch(text):
        return _written(WrittenInt(text[2:], 16), text)
    if _FLOAT.fullmatch(text):
        return _written(WrittenFloat(text), text)
    if _INF.fullmatch(text):
        return _written(WrittenFloat(text.replace(".", "")), text)
    return _written(WrittenFloat("nan"), text) if text in _NAN else text


def plain(value: Any) -> Any:
    """The same data with ordinary numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, WrittenInt):
        return int(value)
    return float(value) if isinstance(value, WrittenFloat) else value


def _written(number: Number, text: str) -> Number:
    number.written = text
    return number
