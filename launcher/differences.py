"""Differences as people read them, one a line under what they are about, and as one JSON object a line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dynamoc.compiler.diagnostics import scalar_text
from dynamoc.compiler.drift import ABSENT, Change, Difference, Drift

MAX_FIELD_WIDTH = 48
HASH = re.compile(r"[0-9a-f]{32}")


def drift_text(drifts: Sequence[Drift]) -> str:
    """By class: field, locked value, value now."""
    return _text([(str(drift.kind), drift.change) for drift in drifts])


def difference_text(found: Sequence[Difference]) -> str:
    """By component: field, value there, value here."""
    return _text([(one.about, one.change) for one in found])


def drift_json(drifts: Sequence[Drift]) -> str:
    """One object a line; a side that has no such field lacks the key."""
    return _json([{"class": str(d.kind)} | _sides(d.change, "locked", "now") for d in drifts])


def difference_json(found: Sequence[Difference]) -> str:
    """One object a line; a side that has no such field lacks the key."""
    return _json([{"about": one.about} | _sides(one.change, "a", "b") for one in found])


def field_name(change: Change) -> str:
    """A path as users read it, components without their prefix: `decode.parallel.tp`, `edges[1]`."""
    words = change.path[1:] if change.path[:1] == ("components",) and len(change.path) > 1 else change.path
    text = "".join(f"[{word}]" if isinstance(word, int) else f".{word}" for word in words)
    return text.removeprefix(".") or "all of it"


def _text(rows: Sequence[tuple[str, Change]]) -> str:
    """Rows of one heading stand together, in the order in which headings appear."""
    width = min(MAX_FIELD_WIDTH, max((len(field_name(change)) for _, change in rows), default=0))
    lines = []
    for heading in dict.fromkeys(heading for heading, _ in rows):
        lines.append(heading)
        for about, change in rows:
            if about == heading:
                lines.append(f"  {field_name(change):<{width}}  {_value(change.before)} → {_value(change.after)}")
    return "".join(f"{line}\n" for line in lines)


def _value(value: Any) -> str:
    if value is ABSENT:
        return "–"
    return value if isinstance(value, str) and HASH.fullmatch(value) else scalar_text(value)


def _sides(change: Change, before: str, after: str) -> dict[str, Any]:
    sides = {before: change.before, after: change.after}
    return {"field": field_name(change)} | {side: value for side, value in sides.items() if value is not ABSENT}


def _json(objects: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
