"""Every environment variable dynamoc reads or sets: one table, from which docs/environment.md is generated."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "DYNAMOC_"


class EnvironmentVariableError(ValueError):
    """A variable holds something it must not; the message names variable, value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable. `parse` turns its text into a value or raises ValueError."""

    name: str
    type: str
    default: str | None
    doc: str
    parse: Callable[[str], Any] = str
    set_by_agent: bool = False


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be at least 1")
    return value


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "DYNAMOC_MODEL_ROOT",
        "path",
        None,
        "Folder under which `model.ref` is looked up; wins over the manifest's `model_root`.",
    ),
    Variable(
        "DYNAMOC_KV_DISK_DAILY_WRITE_BYTES",
        "integer",
        None,
        "Endurance budget: most bytes of KV written to each worker's disk tier a day; no limit if unset.",
        _positive,
    ),
    Variable(
        "DYNAMOC_AIPERF",
        "path",
        "~/.cache/dynamoc/aiperf/bin/aiperf",
        "The program AIPerf, where `tool: aiperf` makes a load.",
    ),
    Variable(
        "DYNAMOC_AICONFIGURATOR",
        "path",
        "~/.cache/dynamoc/aiconfigurator/bin/python",
        "The interpreter of aiconfigurator's environment, for `dynamoc plan --predict`.",
    ),
    Variable("DYNAMOC_LOG_LEVEL", "debug | info | warning | error", "info", "Least severe log line that is written."),
    Variable(
        "DYNAMOC_INCARNATION",
        "integer",
        "0",
        "Which life of the process this is; counts restarts.",
        int,
        set_by_agent=True,
    ),
    Variable(
        "DYNAMOC_NOTIFY_FD", "integer", None, "File descriptor of the socket to the agent.", int, set_by_agent=True
    ),
    Variable("DYNAMOC_RUN_DIR", "path", None, "The run folder.", set_by_agent=True),
    Variable("DYNAMOC_LAUNCH", "string", "", "Which start of the run this is, where a job script says so."),
    Variable("DYNAMOC_NODE", "integer", "0", "Index of the node the process runs on.", int, set_by_agent=True),
    Variable(
        "DYNAMOC_PORT_OFFSET",
        "integer",
        "0",
        "How far the run turned the plan's ports, on nodes that it shares.",
        int,
        set_by_agent=True,
    ),
    Variable("DYNAMOC_RANK", "integer", None, "Rank of the process in its MPI world.", int, set_by_agent=True),
    Variable("DYNAMOC_PROCESS", "string", None, "Name of the process in the plan.", set_by_agent=True),
)

_BY_NAME: Mapping[str, Variable] = {variable.name: variable for variable in VARIABLES}


def read(name: str, environ: Mapping[str, str] | None = None) -> Any:
    """The parsed value of a registered variable, or its default; EnvironmentVariableError if the text is wrong."""
    variable = _BY_NAME[name]
    text = (os.environ if environ is None else environ).get(name, variable.default)
    if text is None:
        return None
    try:
        return variable.parse(text)
    except ValueError as error:
        raise EnvironmentVariableError(f"{name}={text!r}: {error} (expected {variable.type})") from error


def unknown(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Names that carry our prefix but are not ours: misspelt, or of another version."""
    names = os.environ if environ is None else environ
    return tuple(sorted(name for name in names if name.startswith(PREFIX) and name not in _BY_NAME))
