"""Traces in Mooncake's format: one request a line, with its time, its lengths and the hashes of its blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from dynamoc.launcher.load.point import LoadError, LoadPoint, Trace

MAX_LINE_BYTES = 4 * 1024 * 1024
Count = Annotated[int, msgspec.Meta(ge=1)]


class TraceLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request. `timestamp` in ms; requests with the same first hashes share the tokens these stand for."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Count
    output_length: Count
    hash_ids: tuple[int, ...] = ()


def read_trace(point: LoadPoint, trace: Trace) -> Iterator[TraceLine]:
    """The requests of a point one after another, as its file is read; LoadError with the line that is wrong."""
    _check_digest(trace)
    count = 0
    for place, line in lines_of(Path(trace.path).expanduser()):
        _check(place, line, point, trace.block_tokens)
        count += 1
        yield line
        if count == point.requests:
            return
    if not count:
        raise LoadError(f"{trace.path}: a trace without a request")
    if point.requests is not None:
        raise LoadError(f"{trace.path}: {count} requests, and the load asks for {point.requests}")


def count_requests(point: LoadPoint, trace: Trace) -> int:
    """How many requests a point makes, every one of them checked; LoadError."""
    return sum(1 for _ in read_trace(point, trace))


def lines_of(path: Path) -> Iterator[tuple[str, TraceLine]]:
    """Every line with its place, in the order of their times; LoadError."""
    earlier = 0.0
    for place, data in _lines(path):
        line = _decode(place, data)
        if line.timestamp < earlier:
            raise LoadError(f"{place}: `timestamp` {line.timestamp:g} is before that of the line above, {earlier:g}")
        earlier = line.timestamp
        yield place, line


def digest_of(path: Path) -> str:
    """What the file holds; LoadError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadError(f"the trace cannot be read: {error}") from error


def _check_digest(trace: Trace) -> None:
    if trace.digest and digest_of(Path(trace.path).expanduser()) != trace.digest:
        raise LoadError(f"{trace.path}: the trace is another than the one that was proved; compile again")


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(MAX_LINE_BYTES):
                number += 1
                place = f"{path}:{number}"
                if len(data) == MAX_LINE_BYTES:
                    raise LoadError(f"{place}: a line of {MAX_LINE_BYTES} bytes or more; one request is one line")
                if data.strip():
                    yield place, data
    except OSError as error:
        raise LoadError(f"the trace cannot be read: {error}") from error


def _decode(place: str, data: bytes) -> TraceLine:
    try:
        return msgspec.json.decode(data, type=TraceLine)
    except msgspec.MsgspecError as error:
        raise LoadError(f"{place}: not a request of a trace in Mooncake's format: {error}") from error


def _check(place: str, line: TraceLine, point: LoadPoint, block_tokens: int) -> None:
    """Lengths within what was proved to fit, and as many hashes as the prompt has blocks."""
    for name, length, bound in (("input", line.input_length, point.isl), ("output", line.output_length, point.osl)):
        if length > bound:
            field = "isl" if name == "input" else "osl"
            raise LoadError(f"{place}: `{name}_length` {length} > {bound}, the `{field}` of the load; raise `{field}`")
    needed = -(-line.input_length // block_tokens)
    if line.hash_ids and len(line.hash_ids) != needed:
        sums = f"{line.input_length} tokens are {needed} blocks of {block_tokens}"
        raise LoadError(f"{place}: {len(line.hash_ids)} `hash_ids`, but {sums}; is `block_tokens` another?")
