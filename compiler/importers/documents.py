"""The documents of a foreign YAML file as plain data: more is read than a spec may say, merge keys and tags among it.

Numbers remember how they were written, so a value reaches the engine as the recipe spells it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from dynamoc.compiler.importers.recipe import RecipeError
from dynamoc.compiler.scalars import resolve_plain

MAX_CHARACTERS = 2_000_000
MAX_VALUES = 200_000
MAX_DEPTH = 64

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEMPLATE = re.compile(r"\{\{|\{%")
_BINARY = re.compile(r"[\x00\ufffd]")
_BOOL = "tag:yaml.org,2002:bool"
PLAIN = (None, "")
"""Styles of a scalar without quotes: libyaml's parser has another word for it than Python's."""
_TRUE = frozenset({"yes", "on", "true", "y"})


def read_documents(text: str) -> list[Any]:
    """Every document that is not empty; RecipeError if the text is not YAML."""
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"the file has more than {MAX_CHARACTERS} characters")
    try:
        return _documents(text)
    except RecipeError as error:
        if _TEMPLATE.search(text) is None or _BINARY.search(text) is not None:
            raise
        raise RecipeError(f"{error}; the text is a template, so import what it renders to") from error


def _documents(text: str) -> list[Any]:
    try:
        nodes = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise RecipeError(f"{where}{(error.problem or 'the text is not YAML').lower()}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError("the text is not YAML") from error
    documents = [_Reader().value(node, 0) for node in nodes if node is not None]
    return [document for document in documents if document is not None]


class _Reader:
    """Turns nodes into data; an alias shares the value it names."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, int]] = {}
        """Value of a node, and how many values it holds with every alias expanded."""
        self._open: set[int] = set()

    def value(self, node: Any, depth: int) -> Any:
        """The data of a node."""
        return self._sized(node, depth)[0]

    def _sized(self, node: Any, depth: int) -> tuple[Any, int]:
        known = self._done.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            raise RecipeError(f"line {node.start_mark.line + 1}: the value contains itself")
        if depth > MAX_DEPTH:
            raise RecipeError(f"the text is nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            found: tuple[Any, int] = (_scalar(node), 1)
        elif isinstance(node, yaml.SequenceNode):
            items = [self._sized(item, depth + 1) for item in node.value]
            found = ([value for value, _ in items], 1 + sum(size for _, size in items))
        else:
            found = self._mapping(node, depth)
        if found[1] > MAX_VALUES:
            raise RecipeError(f"the file has more than {MAX_VALUES} values, aliases expanded")
        self._open.discard(id(node))
        self._done[id(node)] = found
        return found

    def _mapping(self, node: Any, depth: int) -> tuple[dict[str, Any], int]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        size = 1
        for key, entry in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"line {key.start_mark.line + 1}: a key is not a word")
            _check_text(key)
            value, count = self._sized(entry, depth + 1)
            size += count
            if key.value == "<<" and key.style in PLAIN:
                for part in value if isinstance(value, list) else [value]:
                    merged = {**part, **merged} if isinstance(part, dict) else merged
            elif key.value in own:
                raise RecipeError(f"line {key.start_mark.line + 1}: the key `{key.value}` is written twice")
            else:
                own[key.value] = value
        return {**merged, **own}, size


def _check_text(node: Any) -> None:
    if "\0" in node.value:
        line = node.start_mark.line + 1
        raise RecipeError(f"line {line}: the text has a NUL character, which no program takes as an argument")


def _scalar(node: Any) -> Any:
    """By the core schema, but `yes` and `off` are what the systems that wrote them take them for."""
    _check_text(node)
    if node.style not in PLAIN:
        return node.value
    if node.tag == _BOOL:
        return node.value.lower() in _TRUE
    return resolve_plain(node.value)
