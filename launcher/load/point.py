"""Load points, and whom they ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.compiler.load_plan import FILE, LoadPlan, LoadPoint, Trace
from dynamoc.launcher.results.record import RequestRecord

__all__ = ["LoadError", "LoadPlan", "LoadPoint", "RequestRecord", "Target", "Trace", "read_load"]


class LoadError(Exception):
    """The load cannot be read or made; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: `model` as it is served at `url`, and the folder of its tokenizer."""

    url: str
    model: str
    tokenizer: Path


def read_load(folder: Path) -> LoadPlan | None:
    """The load of a run folder, None where its spec makes none; LoadError."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=LoadPlan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadError(f"{folder / FILE}: {error}") from error
