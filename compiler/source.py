"""Source: the text of a YAML file as plain data, with the place of every key and value.

Scalars follow the YAML 1.2 core schema, so `no`, `4:00:00` and `010` are what they look like. Anchors and aliases
work; tags, merge keys and keys that are not strings are errors with a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from dynamoc.compiler.diagnostics import CompileError, Diagnostic, Edit, Fix, Label, Path, Severity, Span
from dynamoc.compiler.scalars import resolve_plain
from dynamoc.compiler.trace_facts import TraceFacts

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_ALIASES = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Range = tuple[int, int]
"""Characters of the text, from an offset up to another."""


class Limits(msgspec.Struct, frozen=True):
    """How much a file may hold; `depth` also bounds recursion."""

    characters: int = MAX_CHARACTERS
    depth: int = MAX_DEPTH
    nodes: int = MAX_NODES


SPEC_LIMITS = Limits()


class Place(msgspec.Struct, frozen=True):
    """Where a value stands. `style` is `scalar`, `flow` or `block`; `shared` if an alias leads to it."""

    value: Range
    key: Range | None = None
    style: str = "scalar"
    shared: bool = False


class Source(msgspec.Struct, frozen=True):
    """A parsed file. `text` has no byte order mark; `places` has every path of the data."""

    name: str
    text: str
    data: Any
    places: Mapping[Path, Place] = {}
    traces: Mapping[str, TraceFacts] = {}
    """What is known of the traces that it names, by their names in it."""

    def locate(self, path: Path, key: bool = False) -> Span:
        """The span of the value at `path`, or of its key; of the nearest enclosing key if the text has no such path.

        A path may end with a word of the scalar before it: `("edges", 0, "router")`.
        """
        place = self.places.get(path)
        if place is None and path and (scalar := self.places.get(path[:-1])) is not None:
            found = re.search(rf"(?<![\w-]){re.escape(str(path[-1]))}(?![\w-])", self.text[slice(*scalar.value)])
            if scalar.style == "scalar" and found is not None:
                start = scalar.value[0]
                return span_of(self.name, self.text, start + found.start(), start + found.end())
        while place is None and path:
            path, key = path[:-1], True
            place = self.places.get(path)
        if place is None:
            return span_of(self.name, self.text, 0, 0)
        wanted = place.key if place.key is not None and (key or place.style == "block") else place.value
        return span_of(self.name, self.text, *wanted)


def read_source(content: str | bytes, name: str, limits: Limits = SPEC_LIMITS) -> Source:
    """Parse a file; CompileError holds every error that stands in it."""
    content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    text = _decode(content, name).removeprefix("\ufeff")
    reader = _Reader(name, text, limits)
    reader.read()
    if reader.errors:
        raise CompileError(reader.errors)
    return Source(name, text, reader.data, reader.places)


def span_of(name: str, text: str, start: int, end: int) -> Span:
    """The span of a range, cut at the end of its first line; 1-based line and column."""
    start = min(start, len(text))
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    visible = text[start : min(end, line_end)].rstrip()
    return Span(name, text.count("\n", 0, start) + 1, start - line_start + 1, max(1, len(visible)))


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        span = span_of(name, before, len(before), len(before))
        byte = content[error.start]
        note = f"byte {error.start} is 0x{byte:02x}: {error.reason}"
        found = Diagnostic("D103", Severity.ERROR, "the text is not UTF-8", (Label(span),), (note,))
        raise CompileError([found]) from error


class _Reader:
    """Turns parser events into data. Depth and size are bounded, so recursion is."""

    def __init__(self, name: str, text: str, limits: Limits) -> None:
        self.data: Any = None
        self.places: dict[Path, Place] = {}
        self.errors: list[Diagnostic] = []
        self._name = name
        self._text = text
        self._limits = limits
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, tuple[Any, Path] | None] = {}
        self._nodes = 0
        self._aliases = 0

    def read(self) -> None:
        """Fill `data`, `places` and `errors`."""
        if len(self._text) > self._limits.characters:
            self._error("D108", f"the file has more than {self._limits.characters} characters", (0, 0))
            return
        try:
            self._events = iter(yaml.parse(self._text, Loader=_LOADER))
            self._documents()
        except yaml.MarkedYAMLError as error:
            mark: Any = error.problem_mark or error.context_mark
            place = (0, 0) if mark is None else (mark.index, mark.index + 1)
            self._error("D101", "the text is not YAML", place, *self._problem(error, place))
        except yaml.YAMLError as error:
            position = getattr(error, "position", 0) or 0
            reason = str(getattr(error, "reason", error))
            self._error("D101", "the text is not YAML", (position, position + 1), reason)
        except _Stop:
            pass

    def _problem(self, error: yaml.MarkedYAMLError, place: Range) -> tuple[str, tuple[Fix, ...]]:
        if self._text[place[0] : place[1]] != "\t":
            return (error.problem or "it cannot be parsed").lower(), ()
        tabs = [tab for indent in re.finditer(r"^[ \t]+", self._text, re.MULTILINE) for tab in _tabs(indent)]
        edits = tuple(Edit(tab, tab + 1, "  ") for tab in tabs)
        return "a tab cannot indent YAML", (Fix("indent with spaces", edits),) if edits else ()

    def _documents(self) -> None:
        documents = 0
        event: Any
        for event in self._events:
            if not isinstance(event, yaml.NodeEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._error("D104", "the file holds several documents", _range(event), "the second starts here")
                        return
                continue
            self.data = self._node(event, (), None)
        if not isinstance(self.data, dict) and not self.errors:
            message = "the file is empty" if self.data is None else "the file is not a mapping"
            self._error("D109", message, (0, len(self._text)), "expected fields such as `dynamoc: 1`")

    def _node(self, event: Any, path: Path, key: Range | None) -> Any:
        """The value that starts at `event`; notes its place."""
        start = _range(event)
        self._count(path, start)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), path, key, start)
        self._check_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value: Any = resolve_plain(event.value) if event.implicit[0] else event.value
            self._check_text(event)
            self.places[path] = Place(start, key)
        else:
            fill = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence
            value, end = fill(path, start)
            style = "flow" if event.flow_style else "block"
            self.places[path] = Place((start[0], end), key, style)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, path)
        return value

    def _mapping(self, path: Path, place: Range) -> tuple[dict[str, Any], int]:
        data: dict[str, Any] = {}
        end = place[1]
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, key_place = self._key(event)
            value_event = next(self._events)
            where = (*path, key)
            if key in data:
                first = (self.places[where].key or place, "first here")
                self._error("D102", f"the key `{key}` is written twice", key_place, "again here", also=(first,))
            data[key] = self._node(value_event, where, key_place)
            end = self.places[where].value[1]
        return data, self._closed(event, end)

    def _sequence(self, path: Path, place: Range) -> tuple[list[Any], int]:
        data: list[Any] = []
        end = place[1]
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            where = (*path, len(data))
            data.append(self._node(event, where, None))
            end = self.places[where].value[1]
        return data, self._closed(event, end)

    def _closed(self, event: Any, end: int) -> int:
        """Where a collection ends: behind its bracket, or with its last entry."""
        start, stop = _range(event)
        return stop if self._text[start:stop] in ("}", "]") else end

    def _key(self, event: Any) -> tuple[str, Range]:
        place = _range(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._error("D106", "a key is not a string", place, "keys are single words")
            raise _Stop
        self._check_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = (event.value, ())
        self._check_text(event)
        plain = resolve_plain(event.value) if event.implicit[0] else event.value
        if event.implicit[0] and event.value == "<<":
            self._error("D105", "specs use no merge keys", place, "write the fields, or put them under `defaults`")
        elif not isinstance(plain, str):
            fix = Fix("put it in quotes", (Edit(*place, f'"{event.value}"'),))
            self._error(
                "D106", f"the key `{event.value}` is not a string", place, f"this is {_kind(plain)}", fixes=(fix,)
            )
        return event.value, place

    def _check_text(self, event: Any) -> None:
        if "\0" in event.value:
            label = "no program takes it as an argument or in its environment"
            self._error("D105", "specs hold no NUL character", _range(event), label)

    def _check_tag(self, event: Any) -> None:
        start, end = _range(event)
        tag = re.match(r"(?:&\S+\s+)?(!\S*)\s*", self._text[start:end])
        if event.tag is not None and tag is not None:
            place = (start + tag.start(1), start + tag.end(1))
            fix = Fix("remove the tag", (Edit(place[0], start + tag.end(), ""),))
            self._error("D105", "specs use no tags", place, "types follow from the field", fixes=(fix,))

    def _alias(self, anchor: str, path: Path, key: Range | None, place: Range) -> Any:
        target = self._anchors.get(anchor)
        if target is None:
            known = anchor in self._anchors
            reason = "the value contains itself" if known else "no anchor of this name stands before"
            self._error("D107", f"the alias `*{anchor}` cannot be expanded", place, reason)
            self.places[path] = Place(place, key, shared=True)
            return None
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._error("D108", f"the file has more than {MAX_ALIASES} aliases", place)
            raise _Stop
        value, original = target
        for inner in [p for p in self.places if p[: len(original)] == original and p != original]:
            self._count(path, place)
            old = self.places[inner]
            self.places[path + inner[len(original) :]] = Place(old.value, old.key, old.style, shared=True)
        self.places[path] = Place(place, key, shared=True)
        return value

    def _count(self, path: Path, place: Range) -> None:
        self._nodes += 1
        if self._nodes > self._limits.nodes:
            self._error("D108", f"the file has more than {self._limits.nodes} values, aliases expanded", place)
            raise _Stop
        if len(path) > self._limits.depth:
            self._error("D108", f"the text is nested deeper than {self._limits.depth} levels", place)
            raise _Stop

    def _error(
        self,
        code: str,
        message: str,
        place: Range,
        label: str = "",
        fixes: tuple[Fix, ...] = (),
        also: tuple[tuple[Range, str], ...] = (),
    ) -> None:
        labels = tuple(Label(span_of(self._name, self._text, *p), text) for p, text in ((place, label), *also))
        self.errors.append(Diagnostic(code, Severity.ERROR, message, labels, fixes=fixes))


def _tabs(indent: re.Match[str]) -> list[int]:
    return [indent.start() + offset for offset, character in enumerate(indent.group()) if character == "\t"]


def _kind(value: Any) -> str:
    """What a plain key that is not text was read as."""
    names = {bool: "a boolean", int: "an integer", float: "a number"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "null")


def _range(event: Any) -> Range:
    return (event.start_mark.index, event.end_mark.index)


class _Stop(Exception):  # noqa: N818
    """Nothing sensible can be read after this error."""
