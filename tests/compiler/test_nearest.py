from __future__ import annotations

import pytest

from dynamoc.compiler.nearest import MAX_CHARACTERS, nearest


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("replica", ["replicas", "role"], "replicas"),
        ("zzz", ["replicas"], None),
        ("replicas", [], None),
        ("w" * (MAX_CHARACTERS + 1), ["w" * MAX_CHARACTERS], None),
        ("decoder", [*(f"a-name-of-another-length-{n}" for n in range(900)), "decode"], "decode"),
    ],
)
def test_the_nearest(name: str, known: list[str], found: str | None) -> None:
    assert nearest(name, known) == found
