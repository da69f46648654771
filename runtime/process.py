"""What every process of a run has: its place in the manifest, the endpoints of the others, the agent's ear."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from dynamoc.runtime import environment
from dynamoc.runtime.manifest import Manifest, ProcessSpec, read_manifest
from dynamoc.runtime.plane.connection import Identity
from dynamoc.runtime.ports import shifted

PR_SET_PDEATHSIG = 1


class Endpoint(msgspec.Struct, frozen=True):
    """Where a process is reached: one host, one port per purpose."""

    host: str
    ports: dict[str, int]


class Notifier:
    """The line to the agent: JSON lines out (`ready`, `progress`, `failed`), end of file in means the agent died."""

    def __init__(self, fd: int | None) -> None:
        self._socket = None if fd is None else socket.socket(fileno=fd)

    def send(self, event: str, **fields: object) -> None:
        """Tell the agent; nothing happens without one."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")

    def ready(self, **fields: object) -> None:
        """The process does its work from now on."""
        self.send("ready", **fields)

    def progress(self, fraction: float, what: str) -> None:
        """How far the start is, 0..1."""
        self.send("progress", fraction=round(fraction, 3), what=what)

    def failed(self, reason: str) -> None:
        """Why the process is about to exit."""
        self.send("failed", reason=reason)

    def watch(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """Set `stop` when the agent is gone."""
        if self._socket is None:
            return
        sock = self._socket
        sock.setblocking(False)

        def readable() -> None:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                if not sock.recv(4096):
                    loop.remove_reader(sock)
                    stop.set()

        loop.add_reader(sock, readable)


@dataclass(frozen=True, slots=True)
class Context:
    """Handed to `run(context)` of each role."""

    manifest: Manifest
    spec: ProcessSpec
    run_dir: Path
    endpoints: Mapping[str, Endpoint]
    key: bytes
    incarnation: int
    notifier: Notifier

    def with_spec(self, spec: ProcessSpec) -> Context:
        """The same place, another view of what is to be done there."""
        return replace(self, spec=spec)

    @property
    def identity(self) -> Identity:
        """Who this process is on the planes."""
        return Identity(self.spec.name, self.spec.role, self.incarnation)

    @property
    def host(self) -> str:
        """The address this process binds, and no other."""
        return self.endpoints[self.spec.name].host

    def endpoint(self, name: str, purpose: str) -> tuple[str, int]:
        """Host and port of another process."""
        endpoint = self.endpoints[name]
        return endpoint.host, endpoint.ports[purpose]

    def model_folder(self) -> Path:
        """Weights and tokenizer on this node."""
        root = environment.read("DYNAMOC_MODEL_ROOT")
        return self.manifest.model_folder(Path(root) if root else None)


def load_context(run_dir: Path, name: str) -> Context:
    """Everything a process knows at its start, from the run folder and the environment."""
    for variable in environment.unknown():
        logging.getLogger("dynamoc").warning("unknown environment variable %s is ignored", variable)
    manifest = shifted(read_manifest(run_dir / "plan.json"), environment.read("DYNAMOC_PORT_OFFSET"))
    endpoints = msgspec.json.decode((run_dir / "endpoints.json").read_bytes(), type=dict[str, Endpoint])
    key_file = run_dir / "key"
    if key_file.stat().st_mode & 0o077:
        raise PermissionError(f"{key_file} is readable by others; expected mode 0600")
    return Context(
        manifest=manifest,
        spec=manifest.process(name),
        run_dir=run_dir,
        endpoints=endpoints,
        key=key_file.read_bytes(),
        incarnation=environment.read("DYNAMOC_INCARNATION"),
        notifier=Notifier(environment.read("DYNAMOC_NOTIFY_FD")),
    )


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens (Linux)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def set_up_logging(name: str) -> None:
    """One line per record on standard error, which the agent collects."""
    level = environment.read("DYNAMOC_LOG_LEVEL")
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
    )


def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for a drain."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
