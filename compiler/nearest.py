"""The known name that a misspelt one is most like."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest

MAX_CHARACTERS = 200
"""Of a name that is compared: a longer one is no slip of the pen, and comparing takes its length squared."""
MAX_KNOWN = 64
"""Names that one is compared with, those of about its length."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """None if nothing is like it. What compares names is only loaded where one is wrong."""
    from difflib import get_close_matches

    if len(name) > MAX_CHARACTERS:
        return None
    about = nsmallest(MAX_KNOWN, known, key=lambda one: abs(len(one) - len(name)))
    return next(iter(get_close_matches(name, about, 1)), None)
