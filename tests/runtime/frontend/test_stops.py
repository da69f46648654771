"""Stop strings against a search that reads one character at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamoc.runtime.frontend.stops import StopFinder

LETTERS = st.text("ab", max_size=24)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The shortest beginning of `text` that ends with a stop string, without the longest that it ends with."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@given(LETTERS, STOPS, st.lists(st.integers(0, 4), max_size=12))
def test_any_cut_of_the_text_gives_the_same_as_reading_letter_by_letter(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    finder = StopFinder(stops)
    shown = ""
    found = False
    for piece in cut(text, sizes):
        safe, found = finder.push(piece)
        shown += safe
        if found:
            break
    if not found:
        shown += finder.flush()

    assert (shown, found) == naive(text, stops)


@given(LETTERS, STOPS, st.lists(st.integers(0, 4), max_size=12))
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str], sizes: list[int]) -> None:
    finder = StopFinder(stops)
    read = ""
    shown = ""
    for piece in cut(text, sizes):
        read += piece
        safe, found = finder.push(piece)
        shown += safe
        if found:
            return
        held = read[len(shown) :]

        assert read == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
