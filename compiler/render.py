"""Diagnostics as people read them (rustc's style), and as one JSON object a line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence

import msgspec

from dynamoc.compiler.diagnostics import Diagnostic, Label, Severity, Span

_RESET, _BOLD, _BLUE, _CYAN = "\x1b[0m", "\x1b[1m", "\x1b[1;34m", "\x1b[1;36m"
_TONES = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;33m"}

_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), *_BIDI], 0xFFFD)
)
"""What would move the cursor, change colours or turn the writing direction is shown instead of sent to the terminal."""


LONG_LINE = 400
"""Characters of a line that are shown at most."""


def in_order(diagnostics: Sequence[Diagnostic]) -> list[Diagnostic]:
    """By file and place; those without a place last."""

    def place(diagnostic: Diagnostic) -> tuple[bool, str, int, int, str]:
        if not diagnostic.labels:
            return (True, "", 0, 0, diagnostic.code)
        span = diagnostic.labels[0].span
        return (False, span.file, span.line, span.column, diagnostic.code)

    return sorted(diagnostics, key=place)


def render_text(diagnostics: Sequence[Diagnostic], texts: Mapping[str, str], color: bool = False) -> str:
    """All diagnostics and a line that counts them. `texts` maps file names to their text."""
    painter = _Painter(texts, color)
    reports = ["\n".join(painter.lines(diagnostic)) for diagnostic in in_order(diagnostics)]
    return "\n\n".join([*reports, summary(diagnostics)]) + "\n" if reports else ""


def render_json(diagnostics: Sequence[Diagnostic]) -> str:
    """One JSON object a line: the record that the text is rendered from."""
    return "".join(json.dumps(msgspec.to_builtins(d), ensure_ascii=False) + "\n" for d in in_order(diagnostics))


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`."""
    counts = {severity: sum(d.severity is severity for d in diagnostics) for severity in Severity}
    return ", ".join(f"{n} {severity}{'s' * (n > 1)}" for severity, n in counts.items() if n)


class _Painter:
    """Draws one diagnostic under the lines it speaks of."""

    def __init__(self, texts: Mapping[str, str], color: bool) -> None:
        self._lines = {name: text.removeprefix("\ufeff").split("\n") for name, text in texts.items()}
        self._color = color

    def lines(self, diagnostic: Diagnostic) -> list[str]:
        """The whole report of one diagnostic."""
        tone = _TONES[diagnostic.severity]
        head = self._paint(f"{diagnostic.severity}[{diagnostic.code}]", tone)
        out = [f"{head}{self._paint(f': {visible(diagnostic.message)}', _BOLD)}"]
        width = max((len(str(label.span.line)) for label in diagnostic.labels), default=1)
        bar = self._paint(f"{'':{width}} |", _BLUE)
        if diagnostic.labels:
            out += self._snippets(diagnostic.labels, width, bar, tone)
        helps = [*diagnostic.helps, *(fix.help for fix in diagnostic.fixes)]
        words = [("note", text) for text in diagnostic.notes] + [("help", text) for text in helps]
        for kind, text in words:
            lead = f"{self._paint(f'{chr(32):{width}} =', _BLUE)} {self._paint(kind, _BOLD)}: "
            first, *rest = visible(text).split("\n")
            out += [lead + first, *(" " * (width + 9) + line for line in rest)]
        return out

    def _snippets(self, labels: Sequence[Label], width: int, bar: str, tone: str) -> list[str]:
        """Every labelled line once, in order of place; a gap between lines shows as dots."""
        out: list[str] = []
        file, last = "", 0
        marked = {(label.span.file, label.span.line) for label in labels}
        for name, number in sorted(marked, key=lambda mark: (mark[0] != labels[0].span.file, *mark)):
            if name != file:
                here = next(label.span for label in labels if label.span.file == name)
                arrow = self._paint(f"{'':{width}}{':::' if file else '-->'}", _BLUE)
                out += [f"{arrow} {name}:{here.line}:{here.column}", bar]
            elif number > last + 1:
                out.append(self._paint("...", _BLUE))
            shown = None
            for index, label in enumerate(labels):
                if (label.span.file, label.span.line) == (name, number):
                    first, text = self._text(label.span)
                    if first != shown:
                        out.append(f"{self._paint(f'{number:>{width}} |', _BLUE)} {text.expandtabs(1)}".rstrip())
                    out.append(f"{bar} {self._marker(label, first, text, index == 0, tone)}")
                    shown = first
            file, last = name, number
        return [*out, bar]

    def _text(self, span: Span) -> tuple[int, str]:
        """The line of a span; of a very long one, what stands around the span. And where in the line that begins."""
        lines = self._lines.get(span.file, [])
        line = lines[span.line - 1].rstrip("\r") if span.line <= len(lines) else ""
        first = 0 if len(line) <= LONG_LINE else max(0, span.column - 1 - LONG_LINE // 4)
        return first, visible(line[first : first + LONG_LINE])

    def _marker(self, label: Label, first: int, text: str, primary: bool, tone: str) -> str:
        start = label.span.column - 1 - first
        before = display_width(text[:start].expandtabs(1))
        sign = ("^" if primary else "-") * max(1, display_width(text[start : start + label.span.length]))
        return " " * before + self._paint(f"{sign} {visible(label.text)}".rstrip(), tone if primary else _CYAN)

    def _paint(self, text: str, tone: str) -> str:
        return f"{tone}{text}{_RESET}" if self._color else text


def visible(text: str) -> str:
    """The same number of characters, none of which controls a terminal."""
    return text.translate(_VISIBLE)


def display_width(text: str) -> int:
    """Columns a terminal uses: two for wide characters, none for combining ones."""
    return len(text) if text.isascii() else sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
