"""A container's command line -> the engine it starts and that engine's flags as a mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dynamoc.compiler.importers.shell import read_script, with_variables
from dynamoc.compiler.scalars import resolve_plain

MODULES: Mapping[str, tuple[str, str]] = {
    "dynamo.vllm": ("vllm", "dynamo"),
    "dynamo.sglang": ("sglang", "dynamo"),
    "dynamo.sglang.worker": ("sglang", "dynamo"),
    "dynamo.sglang.decode_worker": ("sglang", "dynamo"),
    "dynamo.trtllm": ("trtllm", "dynamo"),
    "dynamo.mocker": ("mocker", "dynamo"),
    "dynamo.frontend": ("frontend", "dynamo"),
    "sglang.launch_server": ("sglang", "native"),
    "vllm.entrypoints.openai.api_server": ("vllm", "native"),
}
"""Modules after `python3 -m`: the engine, and who starts it."""
PROGRAMS: Mapping[str, str] = {"vllm": "vllm", "trtllm-serve": "trtllm"}
_REDIRECTION = re.compile(r"[0-9]*>{1,2}.*|&>{1,2}.*", re.DOTALL)
_SEPARATORS = (";", "&&", "||", "|", "&")


class CommandLine(msgspec.Struct, frozen=True):
    """What a worker is started with.

    `rest` are words that are neither the engine nor a flag of it, `files` the texts that are written before it starts.
    """

    engine: str | None
    entrypoint: str | None
    args: Mapping[str, Any] = {}
    rest: tuple[str, ...] = ()
    files: Mapping[str, str] = {}


def read_command(words: Sequence[str], env: Mapping[str, str]) -> CommandLine:
    """Read the words of `command` and `args` together; a shell's script is read word by word, variables replaced."""
    flat: list[str] = []
    files: dict[str, str] = {}
    for word in words:
        if any(mark in word for mark in (" ", "\n")) and not _is_json(word):
            script = read_script(word)
            flat += script.words
            files |= script.files
        else:
            flat.append(word)
    flat = with_variables(flat, env)
    start, engine, entrypoint = _engine(flat)
    if engine is None:
        return CommandLine(None, None, rest=tuple(flat), files=files)
    end = next((at for at in range(start, len(flat)) if _ends(flat[at])), len(flat))
    args, rest = _flags(flat[start:end])
    return CommandLine(engine, entrypoint, args, (*_before(flat[:start]), *rest, *flat[end:]), files)


def _ends(word: str) -> bool:
    return word in _SEPARATORS or _REDIRECTION.fullmatch(word) is not None


def _is_json(word: str) -> bool:
    return word.strip()[:1] in ("{", "[")


def _engine(words: Sequence[str]) -> tuple[int, str | None, str | None]:
    """Where the flags begin, the engine, and who starts it."""
    for at, word in enumerate(words):
        if word == "-m" and at + 1 < len(words) and words[at + 1] in MODULES:
            return at + 2, *MODULES[words[at + 1]]
        program = word.rpartition("/")[2]
        if program in PROGRAMS and (program != "vllm" or words[at + 1 : at + 2] == ["serve"]):
            return at + 1 + (program == "vllm"), PROGRAMS[program], "native"
    return 0, None, None


def _before(words: Sequence[str]) -> list[str]:
    """What stands before the engine and is no part of starting it."""
    known = {"python3", "python", "-m", "/bin/sh", "/bin/bash", "sh", "bash", "-c", "-lc", "exec", "vllm", "serve"}
    return [word for word in words if word not in known and word not in MODULES and word not in PROGRAMS]


def _flags(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`--name value`, `--name=value` and `--switch`; the first bare word of a server is its model."""
    args: dict[str, Any] = {}
    rest: list[str] = []
    at = 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        at += 1
        if not name.startswith("--"):
            if "model" not in args and not args and not rest:
                args["model"] = words[at - 1]
            else:
                rest.append(words[at - 1])
            continue
        values = [value] if equals else []
        while not equals and at < len(words) and not words[at].startswith("--"):
            values.append(words[at])
            at += 1
        read = [resolve_plain(word) for word in values]
        args[name[2:]] = True if not read else read[0] if len(read) == 1 else read
    return args, rest
