"""A user's mistake is a value with a place: diagnostics, and what collects and shows them.

Passes name *paths* into the spec (`("components", "decode", "parallel", "tp")`); the reporter turns them into
spans of the text. The driver stops between lowerings if any error was reported, and raises one `CompileError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

Path = tuple[str | int, ...]
"""Where in the spec: keys and indices from the root."""

PLAIN_TEXT = re.compile(r"[A-Za-z_/][\w./-]*(?: (?:-> )?[\w./-]+)*|[0-9.]+ [A-Za-z]+", re.ASCII)
WORDS_OF_YAML = frozenset({"null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE"})


class Severity(StrEnum):
    """Errors stop the compilation, warnings do not."""

    ERROR = "error"
    WARNING = "warning"


class Span(msgspec.Struct, frozen=True):
    """A piece of one text: 1-based line and column, `length` in characters (at least 1)."""

    file: str
    line: int
    column: int
    length: int


class Label(msgspec.Struct, frozen=True):
    """A marked piece of text and what it contributes. The first label of a diagnostic is the primary one."""

    span: Span
    text: str = ""


class Put(msgspec.Struct, frozen=True):
    """Give what is at `path` this value; entries that are missing on the way are made."""

    path: Path
    value: Any

    def __str__(self) -> str:
        return f"set {spell(self.path)} to `{scalar_text(self.value)}`"


class Drop(msgspec.Struct, frozen=True):
    """Remove the entry at `path`."""

    path: Path

    def __str__(self) -> str:
        return f"remove {spell(self.path)}"


class Rename(msgspec.Struct, frozen=True):
    """Give the key at `path` another name."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"rename `{self.path[-1]}` to `{self.name}`"


Change = Put | Drop | Rename


class Remedy(msgspec.Struct, frozen=True):
    """What a pass proposes, by path: all `changes` together. Without a `text` the help is derived from them."""

    changes: tuple[Change, ...]
    text: str = ""

    @property
    def help(self) -> str:
        """What the user reads."""
        return self.text or " and ".join(str(change) for change in self.changes)


class Edit(msgspec.Struct, frozen=True):
    """The characters from offset `start` up to `end` of the file become `text`; a byte order mark counts nothing."""

    start: int
    end: int
    text: str


class Fix(msgspec.Struct, frozen=True):
    """A remedy that can be applied to the text: all edits together, and this error is gone."""

    help: str
    edits: tuple[Edit, ...]


class Diagnostic(msgspec.Struct, frozen=True):
    """One finding. `message` is a fact; `notes` show the arithmetic; only `helps` advise, `fixes` are alternatives."""

    code: str
    severity: Severity
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()


class CompileError(Exception):
    """The spec is wrong: every diagnostic of the lowering that found it."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in diagnostics))
        self.diagnostics = tuple(diagnostics)


class Waiver(msgspec.Struct):
    """A rule the user switched off, with the reason."""

    code: str
    reason: str
    at: Path
    used: bool = False


def _no_edits(changes: Sequence[Change]) -> tuple[Edit, ...] | None:
    """For graphs without a text."""
    del changes
    return None


class Reporter(msgspec.Struct):
    """Collects diagnostics of one compilation.

    `locate` maps a path to its span: of the key, or of the value. `edit` turns changes by path into edits of the
    text, None where the text does not allow it. `home` says where an inherited value is written. A waived error is
    recorded as a warning; the same finding twice is one.
    """

    locate: Callable[[Path, bool], Span | None]
    edit: Callable[[Sequence[Change]], tuple[Edit, ...] | None] = _no_edits
    home: Callable[[Path], Path] = tuple
    diagnostics: list[Diagnostic] = []
    waivers: list[Waiver] = []
    unchecked: list[str] = []
    """What no rule could look at, for want of facts."""
    _said: set[Diagnostic] = set()

    def leave_unchecked(self, what: str) -> None:
        """Say that something was not proved; the same thing twice is one."""
        if what not in self.unchecked:
            self.unchecked.append(what)

    def error(
        self,
        code: str,
        message: str,
        *at: tuple[Path, str],
        notes: Sequence[str] = (),
        helps: Sequence[str] = (),
        at_key: bool = False,
        remedies: Sequence[Remedy] = (),
    ) -> None:
        """Report an error. `at` are (path, label text), the primary first; `at_key` marks its key, not its value."""
        waived = [waiver for waiver in self.waivers if waiver.code == code]
        for waiver in waived:
            waiver.used = True
        severity = Severity.WARNING if waived else Severity.ERROR
        notes = (*notes, *(f"allowed by the spec: {waiver.reason}" for waiver in waived))
        self._report(severity, code, message, at, notes, helps, at_key, remedies)

    def warning(
        self,
        code: str,
        message: str,
        *at: tuple[Path, str],
        notes: Sequence[str] = (),
        helps: Sequence[str] = (),
        at_key: bool = False,
        remedies: Sequence[Remedy] = (),
    ) -> None:
        """Report something that is probably not meant but can run."""
        self._report(Severity.WARNING, code, message, at, notes, helps, at_key, remedies)

    @property
    def failed(self) -> bool:
        """Whether any error was reported so far."""
        return any(d.severity is Severity.ERROR for d in self.diagnostics)

    def stop_on_errors(self) -> None:
        """Raise CompileError if any error was reported so far."""
        if self.failed:
            raise CompileError(self.diagnostics)

    def unused_waivers(self) -> Iterator[Waiver]:
        """Waivers that switched nothing off; ask when all passes have run."""
        return (waiver for waiver in self.waivers if not waiver.used)

    def _report(
        self,
        severity: Severity,
        code: str,
        message: str,
        at: Sequence[tuple[Path, str]],
        notes: Sequence[str],
        helps: Sequence[str],
        at_key: bool,
        remedies: Sequence[Remedy],
    ) -> None:
        labels = []
        for number, (path, text) in enumerate(at):
            span = self.locate(self.home(path), at_key and number == 0)
            if span is not None:
                labels.append(Label(span, text))
        advice, fixes = list(helps), []
        for remedy in remedies:
            at_home = [replace(change, path=self.home(change.path)) for change in remedy.changes]
            # Two workers may have one home: what is set there for both is set once.
            moved = Remedy(tuple(c for i, c in enumerate(at_home) if c not in at_home[:i]), remedy.text)
            edits = self.edit(moved.changes)
            if edits is None:
                advice.append(moved.help)
            else:
                fixes.append(Fix(moved.help, edits))
        found = Diagnostic(code, severity, message, tuple(labels), tuple(notes), tuple(advice), tuple(fixes))
        if found not in self._said:
            self._said.add(found)
            self.diagnostics.append(found)


def spell(path: Path) -> str:
    """A path as users read it: `decode.parallel.tp`, `edges[1]`."""
    words = path[1:] if len(path) > 1 and path[0] == "components" else path
    text = "".join(f"[{word}]" if isinstance(word, int) else f".{word}" for word in words)
    return f"`{text.removeprefix('.')}`" if text else "the file"


def scalar_text(value: Any) -> str:
    """A value as it is written in a spec, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar_text(k)}: {scalar_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(scalar_text(item) for item in value) + "]"
    if isinstance(value, str) and PLAIN_TEXT.fullmatch(value) and value not in WORDS_OF_YAML:
        return value
    return json.dumps(value, ensure_ascii=False)
