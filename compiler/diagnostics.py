"""A user's mistake is a value with a place: diagnostics, and what collects and shows them.

Passes name *paths* into the spec (`("components", "decode", "parallel", "tp")`); the reporter turns them into
spans of the text. The driver stops between lowerings if any error was reported, and raises one `CompileError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Path = tuple[str | int, ...]
"""Where in the spec: keys and indices from the root."""


class Severity(StrEnum):
    """Errors stop the compilation, warnings do not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one text: 1-based line and column, `length` in characters (at least 1)."""

    file: str
    line: int
    column: int
    length: int


@dataclass(frozen=True, slots=True)
class Label:
    """A marked piece of text and what it contributes. The first label of a diagnostic is the primary one."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `message` is a fact; `notes` show the arithmetic; only `helps` advise."""

    code: str
    severity: Severity
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()


class CompileError(Exception):
    """The spec is wrong: every diagnostic of the lowering that found it."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in diagnostics))
        self.diagnostics = tuple(diagnostics)


@dataclass(slots=True)
class Reporter:
    """Collects diagnostics of one compilation. `locate` maps a path to its span: of the key, or of the value."""

    locate: Callable[[Path, bool], Span | None]
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def error(
        self,
        code: str,
        message: str,
        *at: tuple[Path, str],
        notes: Sequence[str] = (),
        helps: Sequence[str] = (),
        at_key: bool = False,
    ) -> None:
        """Report an error. `at` are (path, label text), the primary first; `at_key` marks its key, not its value."""
        self._report(Severity.ERROR, code, message, at, notes, helps, at_key)

    def warning(
        self,
        code: str,
        message: str,
        *at: tuple[Path, str],
        notes: Sequence[str] = (),
        helps: Sequence[str] = (),
        at_key: bool = False,
    ) -> None:
        """Report something that is probably not meant but can run."""
        self._report(Severity.WARNING, code, message, at, notes, helps, at_key)

    def stop_on_errors(self) -> None:
        """Raise CompileError if any error was reported so far."""
        if any(d.severity is Severity.ERROR for d in self.diagnostics):
            raise CompileError(self.diagnostics)

    def _report(
        self,
        severity: Severity,
        code: str,
        message: str,
        at: Sequence[tuple[Path, str]],
        notes: Sequence[str],
        helps: Sequence[str],
        at_key: bool,
    ) -> None:
        labels = []
        for number, (path, text) in enumerate(at):
            span = self.locate(path, at_key and number == 0)
            if span is not None:
                labels.append(Label(span, text))
        self.diagnostics.append(Diagnostic(code, severity, message, tuple(labels), tuple(notes), tuple(helps)))
