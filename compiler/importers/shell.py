"""Words of a shell script: comments, line ends, arrays and here-documents as a shell reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

import msgspec

_PIECE = re.compile(
    r"""'[^']*' | "(?:\\.|[^"\\])*" | (?P<joined>\\\n) | \\. | (?P<comment>(?<![^\s;&|(])\#[^\n]*) | (?P<end>\n)""",
    re.DOTALL | re.VERBOSE,
)
_DOCUMENT = re.compile(r"(?<!<)<<(?!<)-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_TARGET = re.compile(r">\s*['\"]?([^\s'\"<>]+)")
_ARRAY = re.compile(r"([A-Za-z_]\w*)\+?=\((.*)", re.DOTALL)
_ALL_OF = re.compile(r"\$\{([A-Za-z_]\w*)\[[@*]\]\}")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=([^(].*|)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^${}]*))?\}|([A-Za-z_]\w*))")
END = ";"


class Script(msgspec.Struct, frozen=True):
    """Words, with `;` where a line ends a command, and the texts of the files that the script writes, by path."""

    words: tuple[str, ...]
    files: Mapping[str, str] = {}


def read_script(script: str) -> Script:
    """Read a script; one with open quotes is one word."""
    text, files = _without_documents(script)
    plain = _PIECE.sub(_piece, text)
    try:
        lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split, lexer.commenters = True, ""
        words = list(lexer)
    except ValueError:
        return Script((script,), files)
    return Script(tuple(_without_empty_commands(_with_arrays(words))), files)


def with_variables(words: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The words with variables replaced: those of the process, and those that earlier words assign."""
    known = dict(env)
    found: list[str] = []
    for word in words:
        replaced = _VARIABLE.sub(lambda match: known.get(match[1] or match[3], match[2] or match[0]), word)
        assigned = _ASSIGNED.fullmatch(replaced)
        if assigned is not None:
            known[assigned[1]] = assigned[2]
        found.append(replaced)
    return found


def _piece(match: re.Match[str]) -> str:
    if match["joined"] or match["comment"]:
        return " "
    return f" {END} " if match["end"] else match[0]


def _without_documents(script: str) -> tuple[str, dict[str, str]]:
    """The script without the bodies of its here-documents, and those bodies by the file they are written to."""
    kept: list[str] = []
    body: list[str] = []
    files: dict[str, str] = {}
    tag = target = ""
    for line in script.split("\n"):
        if tag and line.strip() == tag:
            files[target] = "\n".join(body)
            tag, body = "", []
        elif tag:
            body.append(line)
        else:
            opened = _DOCUMENT.search(line)
            kept.append(line if opened is None else line[: opened.start()] + line[opened.end() :])
            if opened is not None:
                written = _TARGET.search(line)
                tag, target = opened[2], "" if written is None else written[1]
    return "\n".join(kept), files


def _with_arrays(words: Sequence[str]) -> list[str]:
    """`name=( … )` taken out, `${name[@]}` put in."""
    arrays: dict[str, list[str]] = {}
    found: list[str] = []
    inside: list[str] | None = None
    for word in words:
        opened = _ARRAY.fullmatch(word) if inside is None else None
        if opened is not None:
            inside = arrays.setdefault(opened[1], [])
        if inside is None:
            used = _ALL_OF.fullmatch(word)
            found += [word] if used is None else arrays.get(used[1], [word])
            continue
        part = word if opened is None else opened[2]
        inside += [part.removesuffix(")")] if part not in ("", ")", END) else []
        inside = None if part.endswith(")") else inside
    return found


def _without_empty_commands(words: Sequence[str]) -> list[str]:
    found: list[str] = []
    for word in words:
        if word != END or (found and found[-1] != END):
            found.append(word)
    return found[:-1] if found and found[-1] == END else found
