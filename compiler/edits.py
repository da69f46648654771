"""From changes by path to edits of the text, so that a help can be applied as it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dynamoc.compiler.diagnostics import Change, Drop, Edit, Path, Put, Rename, scalar_text
from dynamoc.compiler.source import Place, Source


def edit(source: Source, changes: Sequence[Change]) -> tuple[Edit, ...] | None:
    """Edits that make all `changes`; None where the text does not allow one (an alias, a missing place)."""
    edits = [_edit(source, change) for change in changes]
    found = tuple(one for one in edits if one is not None)
    return found if len(found) == len(edits) else None


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text with all edits made."""
    for one in sorted(edits, key=lambda e: (e.start, e.end), reverse=True):
        text = text[: one.start] + one.text + text[one.end :]
    return text


def _edit(source: Source, change: Change) -> Edit | None:
    if any(place.shared for place in _way(source, change.path)):
        return None
    match change:
        case Put(path, value):
            place = source.places.get(path)
            return _insert(source, path, value) if place is None else _replace(source, place, value)
        case Rename(path, name):
            place = source.places.get(path)
            return None if place is None or place.key is None else Edit(*place.key, scalar_text(name))
        case Drop(path):
            return _drop(source, path)


def _way(source: Source, path: Path) -> list[Place]:
    """Places of the value at `path` and of all that enclose it."""
    return [source.places[path[:n]] for n in range(1, len(path) + 1) if path[:n] in source.places]


def _replace(source: Source, place: Place, value: Any) -> Edit:
    start, end = place.value
    end = start + len(source.text[start:end].rstrip())
    gap = " " if source.text[start - 1 : start] == ":" else ""
    return Edit(start, end, gap + scalar_text(value))


def _insert(source: Source, path: Path, value: Any) -> Edit | None:
    """Add an entry to the nearest mapping or list that exists."""
    parent = path[:-1]
    while parent not in source.places:
        parent = parent[:-1]
    for word in reversed(path[len(parent) + 1 :]):
        value = {word: value} if isinstance(word, str) else [value]
    word = path[len(parent)]
    entry = f"{scalar_text(word)}: {scalar_text(value)}" if isinstance(word, str) else scalar_text(value)
    place, data = source.places[parent], value_at(source.data, parent)
    if data is None:
        return _replace(source, place, {word: value} if isinstance(word, str) else [value])
    if not isinstance(data, dict if isinstance(word, str) else list):
        return None
    children = children_of(data, parent)
    if place.style == "flow":
        at = source.places[children[-1]].value[1] if children else place.value[0] + 1
        return Edit(at, at, f", {entry}" if children else entry)
    return _insert_line(source, children, entry if isinstance(word, str) else f"- {entry}")


def _insert_line(source: Source, children: Sequence[Path], line: str) -> Edit:
    first, last = source.places[children[0]], source.places[children[-1]]
    start = (first.key or first.value)[0]
    line_start = source.text.rfind("\n", 0, start) + 1
    indent = start - line_start
    if first.key is None:
        indent = source.text.rfind("-", line_start, start) - line_start
    at = _end_of_line(source.text, last.value[0] + len(source.text[slice(*last.value)].rstrip()))
    return Edit(at, at, "\n" + " " * indent + line)


def _keys(data: Any) -> Sequence[Any]:
    """Keys of a mapping, indices of a list."""
    return list(data) if isinstance(data, dict) else range(len(data))


def _drop(source: Source, path: Path) -> Edit | None:
    """Remove an entry; of a block mapping that would be left empty, the whole mapping."""
    place, parent = source.places.get(path), path[:-1]
    if place is None or not path:
        return None
    data = value_at(source.data, parent)
    siblings = _keys(data)
    spot = siblings.index(path[-1])
    start, end = (place.key or place.value)[0], place.value[1]
    following = source.places[*parent, siblings[spot + 1]] if spot + 1 < len(siblings) else None
    if source.places[parent].style == "flow":
        if following is not None:
            return Edit(start, (following.key or following.value)[0], "")
        return Edit(source.places[*parent, siblings[spot - 1]].value[1] if spot else start, end, "")
    if len(siblings) == 1:
        return _drop(source, parent)
    return _drop_lines(source, start, end, following)


def _drop_lines(source: Source, start: int, end: int, following: Place | None) -> Edit | None:
    text = source.text
    line_start = text.rfind("\n", 0, start) + 1
    lead = text[line_start:start]
    item = following is None or following.key is None
    if lead.strip(" ") and not (item and lead.strip(" ") == "-"):
        # The first key of a list item stands behind its dash, which must stay.
        return None if following is None or following.key is None else Edit(start, following.key[0], "")
    line_end = _end_of_line(text, start + len(text[start:end].rstrip()))
    return Edit(line_start, text.find("\n", line_end) + 1 or len(text), "")


def _end_of_line(text: str, offset: int) -> int:
    end = text.find("\n", offset)
    end = len(text) if end < 0 else end
    return end - 1 if text[end - 1 : end] == "\r" else end


def children_of(data: Any, path: Path) -> list[Path]:
    """Paths of the entries of a mapping or list."""
    if isinstance(data, dict):
        return [(*path, key) for key in data]
    return [(*path, index) for index in range(len(data))] if isinstance(data, list) else []


def leaves(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every scalar below a path."""
    if isinstance(data, dict | list):
        for child in children_of(data, path):
            yield from leaves(value_at(data, child[-1:]), child)
    else:
        yield path, data


def value_at(data: Any, path: Path) -> Any:
    """What stands at a path of plain data; KeyError or IndexError if nothing does."""
    for word in path:
        data = data[word]
    return data
