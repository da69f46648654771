"""Finds the owner of this node's shared memory, or starts it: it outlives the worker that did."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynamoc.runtime import environment
from dynamoc.runtime.kv.memory_service import wire
from dynamoc.runtime.kv.memory_service.memory import Memory, MemoryServiceError
from dynamoc.runtime.kv.memory_service.session import Session

START_LIMIT_S = 30.0
OF_A_PROCESS = ("DYNAMOC_PROCESS", "DYNAMOC_INCARNATION", "DYNAMOC_NOTIFY_FD")
"""What marks a process's own children, which end with it; the run's own marks stay."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an owner is: one for each run, node and piece of memory (`where`: `cpu`, or a GPU's bus address)."""

    run_dir: Path
    where: str
    device: int | None

    def key(self) -> bytes:
        """The run's. OSError."""
        return (self.run_dir / "key").read_bytes()

    def path(self) -> Path:
        """Its socket, in a folder of this user alone: a run's folder may be too long a name for one, or on the net."""
        folder = Path(tempfile.gettempdir()) / f"dynamoc-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if (facts := folder.lstat()).st_uid != os.getuid() or facts.st_mode & 0o077:
            raise MemoryServiceError(f"{folder} is not mine alone: remove it, or set TMPDIR to a folder that is")
        of_run = f"{self.run_dir.resolve()} {environment.read('DYNAMOC_NODE')} {self.where}".encode()
        return folder / f"{hashlib.blake2b(of_run, key=self.key()[:64], digest_size=12).hexdigest()}.sock"

    def session(self, memory: Memory) -> Session:
        """A session with the owner, which is started if nobody answers. MemoryServiceError, WireError, OSError."""
        path, key = self.path(), self.key()
        with _alone(path.with_suffix(".lock")):
            with contextlib.suppress(wire.WireError):
                return Session(path, key, memory)
            self._start(path, key)
            return Session(path, key, memory)

    def _start(self, path: Path, key: bytes) -> None:
        """Returns once it listens. It is no child of mine: it ends with the process that started me."""
        words = [sys.executable, "-m", "dynamoc.runtime.kv.memory_service", "--socket", str(path), "--detach"]
        words += ["--until", str(os.getppid())]
        words += [] if self.device is None else ["--device", str(self.device)]
        marks = {name: value for name, value in os.environ.items() if name not in OF_A_PROCESS}
        try:
            # It keeps my log, and nothing else of mine: whoever reads my output would wait for its end.
            out = subprocess.DEVNULL
            ended = subprocess.run(
                words, input=key, stdout=out, env=marks, start_new_session=True, timeout=START_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MemoryServiceError(f"the owner of shared memory is not there after {START_LIMIT_S:g} s") from error
        if ended.returncode:
            raise MemoryServiceError("the owner of shared memory did not start; its own words are in this log")


def where_is(device: int | None) -> str:
    """The piece of memory of a GPU of this process, or of the host."""
    if device is None:
        return "cpu"
    from dynamoc.runtime.kv.cuda.device import bus_address

    return bus_address(device)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One at a time, over all processes; whoever ends lets the next one in."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
