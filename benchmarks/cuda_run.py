"""What the GPU benchmarks share before they touch a GPU: processes that see only some, what they answer, targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NoReturn

from dynamoc.runtime.kv.cuda.device import DeviceError, require_devices

MARK = "@"
"""Begins the lines that are answers: libraries print too."""
SKIPPED = 77
"""Exit status of a benchmark that this host has no GPUs for."""


def need_gpus(count: int) -> None:
    """End as skipped, and say why, where there are fewer."""
    try:
        seen = require_devices()
        why = "" if seen >= count else f"this process sees {seen} GPUs, not {count}"
    except DeviceError as error:
        why = str(error)
    if why:
        skip(why)


def skip(why: str) -> NoReturn:
    """End as a benchmark does that cannot be run here."""
    print(f"skipped: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def say(answer: Any) -> None:
    """One line to the process that asked."""
    print(MARK + json.dumps(answer), flush=True)


class Owner:
    """The handle on a process that owns memory: it answers one line at its start, then one to each that it gets."""

    def __init__(self, words: list[str], gpus: str) -> None:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
        self._process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        self.offer = self._answer()

    def ask(self, do: str, **fields: Any) -> Any:
        """One command, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit(f"the other process ended with {self._process.wait(60)}")


def in_child(words: list[str], gpus: str, limit_s: float = 500) -> list[dict[str, Any]] | None:
    """What a measuring process printed last; None if it failed or took too long, with its words on our stderr."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "NIXL_LOG_LEVEL": "WARN"}
    try:
        done = subprocess.run(
            [sys.executable, *words], env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s
        )
    except subprocess.SubprocessError as error:
        print(error, file=sys.stderr)
        return None
    found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1].removeprefix(MARK))
    return found


def against(value: float, target: float, *, most: bool = False) -> str:
    """A figure's verdict: `met`, or by how much it is missed."""
    short = value - target if most else target - value
    return "met" if short <= 0 else f"missed by {short:.3g}"
