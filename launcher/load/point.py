"""Load points, and what is known of each of their requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynamoc.compiler.load_plan import FILE, LoadPlan, LoadPoint

__all__ = ["LoadError", "LoadPlan", "LoadPoint", "RequestRecord", "Target", "read_load"]


class LoadError(Exception):
    """The load cannot be read or made; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: `model` as it is served at `url`, and the folder of its tokenizer."""

    url: str
    model: str
    tokenizer: Path


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of a point. `started` is Unix time; the rest of the times are ms since the request was sent.

    `token_ms` has one entry for each piece of the stream: a token, or several where the server sent them at once.
    """

    index: int
    started: float
    e2e_ms: float
    input_tokens: int
    output_tokens: int
    ttft_ms: float | None = None
    token_ms: tuple[float, ...] = ()
    error: str | None = None


def read_load(folder: Path) -> LoadPlan | None:
    """The load of a run folder, None where its spec makes none; LoadError."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=LoadPlan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise LoadError(f"{folder / FILE}: {error}") from error
