"""The log of a process: read as it grows, and kept from filling the disk."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from dynamoc.runtime.agent.markers import marker_in

LIMIT_BYTES = 64 * 1024 * 1024
"""Of one file; the part before it is kept once, under the name with `.1`."""
SILENCE_S = 20.0
"""A start that logged a marker and then nothing for so long has failed: many a library says such lines and goes on."""
READ_BYTES = 1024 * 1024
LINE_BYTES = 400


class Log:
    """What a process writes. Whoever writes must append: the file is emptied under it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._grown = time.monotonic()
        self._marker: str | None = None

    def hopeless(self, silence_s: float = SILENCE_S) -> str | None:
        """The last marker, when nothing was written for `silence_s`; None while there is hope. Reads what is new."""
        size = self.path.stat().st_size
        if size != self._read:
            with self.path.open("rb") as file:
                file.seek(max(self._read if size > self._read else 0, size - READ_BYTES))
                self._marker = marker_in(file.read().decode(errors="replace")) or self._marker
            self._read, self._grown = size, time.monotonic()
        return self._marker if time.monotonic() - self._grown >= silence_s else None

    def last_lines(self, count: int) -> str:
        """The end of it."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - LINE_BYTES * count))
            return "".join(line + "\n" for line in file.read().decode(errors="replace").splitlines()[-count:])

    def bound(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Start over where it is too long. What is written while it is copied may be lost."""
        if self.path.stat().st_size <= limit_bytes:
            return
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
        with self.path.open("r+b") as file:
            file.truncate(0)


def pattern_of(text: str) -> str:
    """What two failures have in common: their last line without numbers."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"0x[0-9a-f]+|\d+", "#", lines[-1]) if lines else ""
