"""This process's end of NIXL: one agent with the UCX backend, which registers memory and writes to that of others.

It has no listener of its own, and its sockets are on the plane's interface alone; RDMA devices it may use all. A write
that UCX has begun cannot be called back, and nobody says when a peer hangs: whoever posts one also gives it up in time.

It has no thread of its own either: NIXL's never sleeps, and would keep a core busy in every worker. So UCX moves on
only while somebody waits: at the writer for its write, at the owner for word of it.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from dynamoc.runtime.transports.protocol import TransportError

PACKAGES = ("nixl_cu13", "nixl_cu12")
SPIN_S = 0.0002
PAUSE_S = 0.0001
"""A wait looks without pause as long as a slot within a host takes, then every `PAUSE_S`."""
DEVICES = "UCX_NET_DEVICES"
LOG = "UCX_LOG_FILE"
_SIOCGIFADDR = 0x8915
_RDMA = Path("/sys/class/infiniband")


class Place(NamedTuple):
    """An address in memory of the host, or of a GPU of the process whose memory it is."""

    address: int
    device: int | None

    def after(self, size: int) -> Place:
        """So many bytes further on."""
        return self._replace(address=self.address + size)

    @property
    def kind(self) -> str:
        """What NIXL calls such memory."""
        return "DRAM" if self.device is None else "VRAM"

    def run(self, size: int) -> tuple[int, int, int]:
        """So many bytes from here on, as NIXL wants them."""
        return (self.address, size, self.device or 0)


class Agent:
    """Used from many threads. `name` tells it from every other agent, also from the next of this worker."""

    def __init__(self, name: str, interface: str) -> None:
        """TransportError if NIXL or UCX is not there."""
        os.environ.setdefault(LOG, "stderr")  # else standard output, where a probe says what it found
        api = _api()
        os.environ.setdefault(DEVICES, ",".join([interface, *_rdma_ports()]))
        strict = api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
        self.name = name
        try:
            config = api.nixl_agent_config(enable_prog_thread=False, backends=[], sync_mode=strict)
            self._agent = api.nixl_agent(name, config)
            self._agent.create_backend("UCX", {"ucx_error_handling_mode": "peer"})
        except Exception as error:
            raise TransportError(f"nixl cannot use UCX on {os.environ[DEVICES]}: {error}") from error
        self._connecting = threading.Lock()

    def register(self, place: Place, size: int) -> bytes:
        """Let others write to this memory; what they need to know for it. TransportError.

        It stays so as long as the agent: agents that heard of it would take other memory at its place for it.
        """
        try:
            handle = self._agent.register_memory([(*place.run(size), "")], place.kind)
            described: bytes = self._agent.get_partial_agent_metadata(handle, True, ["UCX"])
        except Exception as error:
            raise TransportError(f"nixl cannot register {size} B: {error}") from error
        return described

    def add(self, metadata: bytes) -> None:
        """Learn of memory of another agent; TransportError."""
        try:
            with self._connecting:
                self._agent.add_remote_agent(metadata)
        except Exception as error:
            raise TransportError(f"the peer's nixl metadata are not usable: {error}") from error

    def progress(self) -> None:
        """Let UCX do what writes of others need of this end: connecting, and taking bytes in where there is no RDMA."""
        self._agent.get_new_notifs(["UCX"])  # there are none; this is NIXL's way to ask for it

    def write(self, source: Place, size: int, peer: str, destination: Place) -> Write:
        """Begin to write a run of registered memory; TransportError."""
        try:
            from_ = self._agent.get_xfer_descs([source.run(size)], source.kind)
            to = self._agent.get_xfer_descs([destination.run(size)], destination.kind)
            handle = self._agent.initialize_xfer("WRITE", from_, to, peer)
            return Write(self._agent, handle, self._agent.transfer(handle))
        except Exception as error:
            raise TransportError(f"nixl cannot write: {error}") from error


class Write:
    """One run under way."""

    def __init__(self, agent: Any, handle: Any, state: str) -> None:
        self._agent = agent
        self._handle = handle
        self._state = state

    def is_done(self) -> bool:
        """Whether every byte is in the peer's memory; TransportError if they will not be."""
        try:
            if self._state == "PROC":
                self._state = self._agent.check_xfer_state(self._handle)
        except Exception as error:
            raise TransportError(f"nixl: {error}") from error
        if self._state == "DONE":
            self.release()
        elif self._state != "PROC":
            raise TransportError(f"nixl: the write ended as {self._state}")
        return self._state == "DONE"

    def release(self) -> None:
        """Let go of the handle. This is no proof that nothing of it is written any more."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._agent.release_xfer_handle(handle)


def pause(began: float, spin_s: float = SPIN_S) -> None:
    """Between two looks of a wait that began then, by the monotonic clock."""
    if time.monotonic() - began < spin_s:
        os.sched_yield()
    else:
        time.sleep(PAUSE_S)


def interface_towards(host: str) -> str:
    """The network interface over which `host` is reached; TransportError if there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            mine = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address(probe, name) == mine:
                    return name
    except OSError as error:
        raise TransportError(f"there is no way to {host}: {error}") from error
    raise TransportError(f"no interface has {mine}, the address towards {host}")


def _address(probe: socket.socket, interface: str) -> str | None:
    try:
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return None  # it has no IPv4 address
    return socket.inet_ntoa(answer[20:24])


def _rdma_ports() -> list[str]:
    return [f"{port.parent.parent.name}:{port.name}" for port in sorted(_RDMA.glob("*/ports/*"))]


def _api() -> Any:
    missing: list[str] = []
    for package in PACKAGES:
        try:
            api = importlib.import_module(f"{package}._api")
        except ImportError as error:
            missing.append(str(error))
            continue
        api.logger.setLevel(logging.WARNING)
        return api
    raise TransportError(f"transport `nixl` needs NIXL (`pip install dynamoc[nixl]`): {'; '.join(missing)}")
