"""From validation errors to diagnostics in our words: what stands there, what may, and the edit that cures it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from dynamoc.compiler.diagnostics import Change, Drop, Path, Put, Remedy, Rename, Reporter, scalar_text, spell
from dynamoc.compiler.edits import leaves, value_at
from dynamoc.compiler.nearest import nearest
from dynamoc.compiler.scalars import WrittenFloat
from dynamoc.compiler.source import Source
from dynamoc.compiler.units import QuantityError

Location = tuple[str | int, ...]
Shape = TypeVar("Shape", bound=BaseModel)

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "`true` or `false`",
    "dict": "a mapping",
    "model": "a mapping",
    "list": "a list",
    "finite": "a number",
}
TAGS = ("<frontend>", "<router>", "<worker>", "<cache>")
"""Shapes of a component."""
FREE_TEXT = ("model", "defaults", "components")
"""Where text is more than the name of something else, so that a number in quotes can be meant."""
LISTS_OF_TEXT = ("edges", "same_node")
_TRUTH = {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}
_PATTERNS = {
    "name": "names are up to 40 lower-case letters, digits and dashes, and start with a letter",
    "variable": "names of variables are letters, digits and underscores, and do not start with a digit",
}


class Finding(msgspec.Struct, frozen=True):
    """One validation error: `kind` is the validator's word, `raw` its location with tags, `path` without."""

    kind: str
    raw: Location
    path: Path
    value: Any
    context: Mapping[str, Any]
    in_key: bool

    @property
    def name(self) -> str:
        """How messages call the place."""
        return spell(self.path)


def read_shape(
    model: type[Shape], part_at: Callable[[Location], type[BaseModel]], source: Source, report: Reporter
) -> Shape | None:
    """Validate the data of a source; None when errors were reported."""
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        findings = [_finding(entry, source.data) for entry in error.errors(include_url=False)]
        explainer = _Explainer(source.data, part_at, report)
        for finding in sorted(findings, key=lambda f: f.kind == "missing"):
            if finding.kind != "missing" or finding.path not in explainer.misspelt:
                explainer.explain(finding)
        return None


def _finding(entry: Mapping[str, Any], data: Any) -> Finding:
    raw = entry["loc"]
    in_key = raw[-1] == "[key]"
    path: list[str | int] = []
    for word in raw[:-1] if in_key else raw:
        here = (isinstance(data, list) and isinstance(word, int)) or (isinstance(data, dict) and word in data)
        if here or not (isinstance(word, str) and word.startswith("<")):  # else it is the tag of a union
            path.append(word)
            data = value_at(data, (word,)) if here else None
    return Finding(entry["type"], raw, tuple(path), entry["input"], entry.get("ctx", {}), in_key)


class _Explainer:
    """Reports findings; one method a family."""

    def __init__(self, data: Any, part_at: Callable[[Location], type[BaseModel]], report: Reporter) -> None:
        self._data = data
        self._part_at = part_at
        self._report = report
        self.misspelt: set[Path] = set()
        """Fields that are there under another name: they are not reported as missing too."""

    def explain(self, finding: Finding) -> None:
        """Report one finding."""
        family = finding.kind.split("_")[0]
        if finding.kind == "extra_forbidden":
            self._unknown(finding)
        elif finding.kind == "missing":
            self._missing(finding)
        elif finding.kind == "union_tag_not_found":
            self._role(finding)
        elif finding.kind == "literal_error":
            self._choice(finding)
        elif finding.kind == "string_pattern_mismatch":
            self._pattern(finding)
        elif isinstance(error := finding.context.get("error"), QuantityError):
            remedies = [Remedy((Put(finding.path, error.near),))] if error.near else []
            notes = [f"units are {', '.join(error.units)}"]
            message = f"{finding.name} cannot be {_shown(finding.value)}"
            self._report.error("D114", message, (finding.path, str(error)), notes=notes, remedies=remedies)
        elif family in _KINDS:
            self._type(finding, _KINDS[family])
        else:
            self._bound(finding)

    def _unknown(self, finding: Finding) -> None:
        part, name = self._part_at(finding.raw[:-1]), str(finding.path[-1])
        fields = fields_of(part)
        present = value_at(self._data, finding.path[:-1])
        role = present.get("role") if finding.raw[:1] == ("components",) and len(finding.path) == 3 else None
        if role is not None and name in _fields_of_roles(self._part_at):
            message, code = f"{finding.name} has no effect on a {role}", "D116"
            label = f"a {role} has no such field"
        else:
            message, code = f"unknown field `{name}`", "D110"
            label = f"not a field of {spell(finding.path[:-1])}"
        match = nearest(name, fields)
        near = [match] if match is not None and match not in present else []
        if near and code == "D110":
            self.misspelt.add((*finding.path[:-1], near[0]))
            remedy = Remedy((Rename(finding.path, near[0]),), f"a field with a similar name exists: `{near[0]}`")
        else:
            remedy = Remedy((Drop(finding.path),))
        notes = [] if near else [f"fields are {_listed(fields)}"]
        self._report.error(code, message, (finding.path, label), notes=notes, remedies=[remedy], at_key=True)

    def _missing(self, finding: Finding) -> None:
        remedies = [Remedy((Put(finding.path, 1),))] if finding.path == ("dynamoc",) else []
        part = self._part_at(finding.raw[:-1])
        field = next(f for n, f in part.model_fields.items() if finding.path[-1] in (n, f.alias))
        notes = [str(field.description).rstrip(".")]
        message = f"{spell(finding.path[:-1])} lacks `{finding.path[-1]}`"
        label = (finding.path[:-1], f"`{finding.path[-1]}` is needed here")
        self._report.error("D111", message, label, notes=notes, remedies=remedies, at_key=True)

    def _role(self, finding: Finding) -> None:
        roles = roles_of(self._part_at)
        where = (*finding.path, "role")
        if not isinstance(finding.value, dict):
            self._type(finding, "a mapping")
        elif "role" in finding.value:
            self._not_one_of(where, finding.value["role"], roles)
        else:
            near = nearest(str(finding.path[-1]), roles)
            label = (finding.path, "`role` is needed here")
            remedies = [Remedy((Put(where, near),))] if near else []
            notes = [f"roles are {_listed(roles)}"]
            message = f"{finding.name} lacks `role`"
            self._report.error("D111", message, label, notes=notes, remedies=remedies, at_key=True)

    def _choice(self, finding: Finding) -> None:
        if finding.path == ("dynamoc",):
            label = (finding.path, "this version reads 1")
            message = f"version {_shown(finding.value)} of the spec language is not known"
            self._report.error("D117", message, label, remedies=[Remedy((Put(finding.path, 1),))])
        else:
            self._not_one_of(finding.path, finding.value, re.findall(r"'([^']*)'", finding.context["expected"]))

    def _not_one_of(self, path: Path, value: Any, choices: list[str]) -> None:
        near = nearest(value, choices) if isinstance(value, str) else None
        remedies = [Remedy((Put(path, near),))] if near else []
        message = f"{spell(path)} cannot be {_shown(value)}"
        self._report.error("D113", message, (path, f"expected {_listed(choices, 'or')}"), remedies=remedies)

    def _pattern(self, finding: Finding) -> None:
        old = str(finding.path[-1] if finding.in_key else finding.value)
        variable = "env" in finding.path[-2:]
        new = re.sub(r"\W", "_", old) if variable else re.sub(r"[^a-z0-9]+", "-", old.lower()).strip("-")[:40]
        new = new if new[:1].isalpha() or (variable and new[:1] == "_") else f"x{'_' if variable else '-'}{new}"
        taken = finding.in_key and new in value_at(self._data, finding.path[:-1])
        changes: tuple[Change, ...] = (Put(finding.path, new),)
        if finding.in_key:
            references = () if variable else references_to(self._data, old, new)
            changes = (Rename(finding.path, new), *references)
        label = (finding.path, _PATTERNS["variable" if variable else "name"])
        remedies = [] if taken else [Remedy(changes, f"call it `{new}`")]
        message = f"`{old}` cannot be a name"
        self._report.error("D113", message, label, remedies=remedies, at_key=finding.in_key)

    def _type(self, finding: Finding, wanted: str) -> None:
        value, remedies = finding.value, []
        cure = _converted(value, f"{wanted} of text" if finding.path[-1] in LISTS_OF_TEXT else wanted)
        if cure is not None and (wanted != "text" or finding.path[0] in FREE_TEXT):
            remedies.append(Remedy((Put(finding.path, cure),)))
        message = f"{finding.name} takes {wanted}"
        self._report.error("D112", message, (finding.path, f"this is {_kind(value)}"), remedies=remedies)

    def _bound(self, finding: Finding) -> None:
        limits = [(word, finding.context[word]) for word in ("ge", "le") if word in finding.context]
        if limits:
            word, limit = limits[0]
            label = f"expected {limit} or {'more' if word == 'ge' else 'less'}"
            remedies = [Remedy((Put(finding.path, limit),))]
        else:
            empty = finding.kind in ("too_short", "string_too_short")
            label, remedies = "expected at least one" if empty else "not allowed here", []
        message = f"{finding.name} cannot be {_shown(finding.value)}"
        self._report.error("D113", message, (finding.path, label), remedies=remedies)


def fields_of(part: type[BaseModel]) -> list[str]:
    """The keys a mapping may have, as they are written."""
    return [field.alias or name for name, field in part.model_fields.items()]


def roles_of(part_at: Callable[[Location], type[BaseModel]]) -> list[str]:
    """Every role a component may have."""
    shapes = [part_at(("components", "", tag)) for tag in TAGS]
    return [role for shape in shapes for role in shape.model_fields["role"].annotation.__args__]  # type: ignore[union-attr]


def references_to(data: Any, old: str, new: str) -> tuple[Change, ...]:
    """Changes of the edges and wishes that name a component, where its name changes."""
    word = re.compile(rf"(?<![\w-]){re.escape(old)}(?![\w-])")
    return tuple(
        Put(path, word.sub(new, text))
        for root in ("edges", "placement")
        for path, text in leaves(data.get(root), (root,))
        if isinstance(text, str) and word.search(text)
    )


def _fields_of_roles(part_at: Callable[[Location], type[BaseModel]]) -> set[str]:
    return {f for tag in TAGS for f in fields_of(part_at(("components", "", tag)))}


def _converted(value: Any, wanted: str) -> Any:
    """The same value in the wanted type, None if there is no such thing."""
    text = getattr(value, "written", value)
    if wanted == "an integer" and isinstance(value, WrittenFloat) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if wanted in ("an integer", "a number") and isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        return int(value)
    if wanted == "text" and isinstance(value, int | float):
        return str(text).lower()
    if wanted == "`true` or `false`" and isinstance(value, str):
        return _TRUTH.get(value.lower(), {"true": True, "false": False}.get(value.lower()))
    return [value] if wanted == "a list of text" and isinstance(value, str) else None


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    names = {int: "an integer", float: "a number", str: "text", dict: "a mapping", list: "a list"}
    return next(name for kind, name in names.items() if isinstance(value, kind))


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "empty" if not value else _kind(value)
    text = getattr(value, "written", None) or (value if isinstance(value, str) and value else scalar_text(value))
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _listed(words: list[str], last: str = "and") -> str:
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
