"""One life of a process: from its start to the end of the last process it left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from dynamoc.runtime.agent.family import kill_family
from dynamoc.runtime.agent.log import Log
from dynamoc.runtime.agent.reaper import Exit, Reaper
from dynamoc.runtime.environment import PREFIX
from dynamoc.runtime.manifest import ProcessSpec

NOTIFY_FD = 3
MAX_LINE_BYTES = 64 * 1024
BURIAL_LIMIT_S = 5.0
CUDA = "CUDA_VISIBLE_DEVICES"
NO_DEVICE_FILES = "NoDevFiles"
"""What Slurm says where it counts GPUs without knowing them."""

INHERITED = frozenset(
    {"HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"}
    | {"http_proxy", "https_proxy", "no_proxy", "SSL_CERT_DIR", "SSL_CERT_FILE"}
)
INHERITED_PREFIXES = ("CUDA_", "HF_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTHON", "TORCH", "UCX_", PREFIX)


class Said(msgspec.Struct, frozen=True):
    """One line from a process; see `dynamoc.runtime.process.Notifier`."""

    event: Literal["ready", "progress", "failed"]
    fraction: float = 0.0
    what: str = ""
    reason: str = ""


class GpuError(ValueError):
    """The plan wants a GPU that this node does not show."""


@dataclass(frozen=True, slots=True)
class Home:
    """What all processes of a node share."""

    run_dir: Path
    node: int
    environ: Mapping[str, str]
    port_offset: int = 0

    @property
    def marks(self) -> dict[str, str]:
        """Environment by which every process of this run and node is known."""
        return {"DYNAMOC_RUN_DIR": str(self.run_dir), "DYNAMOC_NODE": str(self.node)}

    def environment(self, spec: ProcessSpec, incarnation: int) -> dict[str, str]:
        """Little of the agent's own, then the plan's, then what only the agent knows."""
        kept = {k: v for k, v in self.environ.items() if k in INHERITED or k.startswith(INHERITED_PREFIXES)}
        return {
            **kept,
            **spec.env,
            CUDA: visible_gpus(spec, allotted_gpus(self.environ)),
            **self.marks,
            "DYNAMOC_PORT_OFFSET": str(self.port_offset),
            "DYNAMOC_PROCESS": spec.name,
            "DYNAMOC_INCARNATION": str(incarnation),
            "DYNAMOC_NOTIFY_FD": str(NOTIFY_FD),
        }


def allotted_gpus(environ: Mapping[str, str]) -> str | None:
    """The GPUs that a scheduler gave this node, in its own words; None where nobody said."""
    said = (environ[name] for name in (CUDA, "SLURM_STEP_GPUS", "SLURM_JOB_GPUS") if name in environ)
    return next((gpus for gpus in said if gpus != NO_DEVICE_FILES), None)


def visible_gpus(spec: ProcessSpec, allotted: str | None) -> str:
    """The process's GPUs in CUDA's words: an index of the plan counts within those allotted to this node."""
    if allotted is None:
        return ",".join(map(str, spec.gpus))
    names = [name for name in allotted.split(",") if name]
    if any(gpu >= len(names) for gpu in spec.gpus):
        raise GpuError(f"`{spec.name}` needs GPU {max(spec.gpus)} of its node, but {CUDA}={allotted!r}")
    return ",".join(names[gpu] for gpu in spec.gpus)


class Life:
    """A started process. `ready` and `exited` are futures; `hear` is called with each other line it sends."""

    def __init__(
        self, spec: ProcessSpec, incarnation: int, home: Home, reaper: Reaper, hear: Callable[[Said], None]
    ) -> None:
        self.log = Log(home.run_dir / "logs" / f"{spec.name}-{incarnation}.log")
        self.argv = (sys.executable, *spec.argv, "--run-dir", str(home.run_dir))
        self._environment = home.environment(spec, incarnation)
        self._marks = {k: self._environment[k] for k in (*home.marks, "DYNAMOC_PROCESS", "DYNAMOC_INCARNATION")}
        self._hear = hear
        self._heard = b""
        self._loop = asyncio.get_running_loop()
        self._born = time.monotonic()
        self._line, theirs = socket.socketpair()
        with theirs:
            self.pid = _spawn(self.argv, self._environment, self.log.path, theirs.fileno())
        self.exited: asyncio.Future[Exit] = reaper.watch(self.pid)
        self.ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._line.setblocking(False)
        self._loop.add_reader(self._line, self._listen)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return round(time.monotonic() - self._born, 3)

    def terminate(self) -> None:
        """Ask the process to drain; what it started itself is its to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its group now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def bury(self) -> bool:
        """After the exit: end everything it left behind. False if something outlived SIGKILL for too long."""
        if self._line.fileno() >= 0:
            self._listen()  # its last words may have come together with its end
        self._close_line()
        deadline = self._loop.time() + BURIAL_LIMIT_S
        while kill_family(self._marks, self.pid):
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def _signal(self, number: signal.Signals) -> None:
        if not self.exited.done():  # not yet waited for, so the pid is still its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _close_line(self) -> None:
        if self._line.fileno() >= 0:
            self._loop.remove_reader(self._line)
            self._line.close()

    def _listen(self) -> None:
        try:
            data = self._line.recv(MAX_LINE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:  # it died with our answer unread; its exit tells the rest
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        if not data or len(self._heard) > MAX_LINE_BYTES:
            self._close_line()
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=Said)
            fields = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            self._hear(Said("failed", reason=f"undecodable notification {line[:200]!r}: {error}"))
            return
        if said.event == "ready" and not self.ready.done():
            self.ready.set_result({k: v for k, v in fields.items() if k != "event"})
        elif said.event != "ready":
            self._hear(said)


def _spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, line: int) -> int:
    """Start in a session of its own, with the log as both outputs, no input, and the line to the agent as fd 3."""
    log.parent.mkdir(exist_ok=True)
    actions = [
        (os.POSIX_SPAWN_DUP2, line, NOTIFY_FD),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        argv[0],
        list(argv),
        environment,
        file_actions=actions,
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        setsigmask=[],
    )
