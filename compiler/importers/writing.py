"""Imported data as YAML text: numbers as the recipe writes them, texts in quotes wherever a reader might doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dynamoc.compiler.diagnostics import PLAIN_TEXT, WORDS_OF_YAML

OLD_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Texts that older readers take for something else."""
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_text(data: Mapping[str, Any]) -> str:
    """Mappings in block style, lists in flow style; keys in the given order."""
    return "".join(f"{line}\n" for line in _block(data, ""))


def _block(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{scalar(key)}:"
            yield from _block(value, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            yield f"{indent}{scalar(key)}:"
            yield from (f"{indent}  - {_flow(item)}" for item in value)
        else:
            yield f"{indent}{scalar(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """One scalar as YAML 1.2 writes it."""
    written = getattr(value, "written", None)
    if written is not None:
        return str(written)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    plain = PLAIN_TEXT.fullmatch(text) and text not in WORDS_OF_YAML and text.lower() not in OLD_WORDS
    return text if plain else '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
