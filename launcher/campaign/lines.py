"""A file of JSON lines that is only ever appended to: a line is there whole and on the disk, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

Line = TypeVar("Line", bound=msgspec.Struct)


class LinesError(Exception):
    """A line cannot be read; the message names file and line."""


class Lines(Generic[Line]):
    """Of one type. One writer at a time; what a crash cut off is dropped by the next that writes."""

    def __init__(self, path: Path, kind: type[Line]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> list[Line]:
        """Every whole line, oldest first; LinesError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return list(self._decoded(data))

    def _decoded(self, data: bytes) -> Iterator[Line]:
        decode = msgspec.json.Decoder(self._kind).decode
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            if line.endswith(b"\n"):
                try:
                    yield decode(line)
                except msgspec.MsgspecError as error:
                    raise LinesError(f"{self.path}:{number}: {error}") from error

    def add(self, *lines: Line, durable: bool = True) -> None:
        """On the disk when this returns, unless `durable` is false: then it outlives us, and not the machine."""
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._drop_the_cut_off(descriptor)
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(f"{self.path}: {written} of {len(data)} bytes were written")
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _drop_the_cut_off(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if not size or os.pread(descriptor, 1, size - 1) == b"\n":
            return
        whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
