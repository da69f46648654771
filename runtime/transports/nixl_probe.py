"""Whether NIXL moves bytes on this node, found out in a child process: a library or a driver may hang on the way.

Two agents over one interface; one writes random bytes into memory of the other, of the host or of a GPU.
"""

from __future__ import annotations

import mmap
import secrets
import sys
import time
from typing import NamedTuple

import numpy as np

from dynamoc.runtime.kv.cuda.device import DeviceError, on_device, require_devices, runtime
from dynamoc.runtime.transports.nixl_agent import Agent, Place, pause
from dynamoc.runtime.transports.probe_child import ask_child
from dynamoc.runtime.transports.protocol import TransportError

LIMIT_S = 30.0
SIZE = mmap.PAGESIZE
HOST = "host"
_TO_DEVICE, _TO_HOST = 1, 2


class Memory(NamedTuple):
    """`SIZE` bytes of a GPU, or of the host."""

    place: Place
    held: mmap.mmap | None

    def write(self, data: bytes) -> None:
        """Make it hold these bytes."""
        if self.held is not None:
            self.held[:] = data
        else:
            runtime.memcpy(self.place.address, np.frombuffer(data, np.uint8).ctypes.data, SIZE, _TO_DEVICE)

    def read(self) -> bytes:
        """What it holds."""
        if self.held is not None:
            return self.held[:]
        found = np.empty(SIZE, np.uint8)
        runtime.memcpy(found.ctypes.data, self.place.address, SIZE, _TO_HOST)
        return found.tobytes()


async def probe(interface: str, device: int | None = None, limit_s: float = LIMIT_S) -> None:
    """TransportError if bytes do not arrive, or if that is not known within the limit."""
    subject = f"nixl over {interface}" + ("" if device is None else f" between memory of GPU {device}")
    words = [interface, str(limit_s), HOST if device is None else str(device)]
    await ask_child(subject, __name__, words, b"", limit_s)


def why_not(interface: str, limit_s: float, device: int | None) -> str:
    """Why bytes would not arrive; empty if they would."""
    try:
        if device is None:
            return _round_trip(interface, limit_s, [_of_host() for _ in range(2)])
        require_devices()
        with on_device(device, "try NIXL between memory of a GPU"):
            return _round_trip(interface, limit_s, [_of_gpu(device) for _ in range(2)])
    except (TransportError, DeviceError) as error:
        return str(error)


def _of_host() -> Memory:
    memory = mmap.mmap(-1, SIZE)
    return Memory(Place(int(np.frombuffer(memory, np.uint8).ctypes.data), None), memory)


def _of_gpu(device: int) -> Memory:
    return Memory(Place(runtime.malloc(SIZE), device), None)


def _round_trip(interface: str, limit_s: float, memories: list[Memory]) -> str:
    source, target = memories
    writer, owner = (Agent(secrets.token_hex(8), interface) for _ in range(2))
    sent = secrets.token_bytes(SIZE)
    source.write(sent)
    target.write(bytes(SIZE))
    writer.register(source.place, SIZE)
    writer.add(owner.register(target.place, SIZE))
    write = writer.write(source.place, SIZE, owner.name, target.place)
    began = time.monotonic()
    while not write.is_done():
        if time.monotonic() > began + limit_s:
            return f"nothing arrives within {limit_s:g} s"
        owner.progress()
        pause(began)
    return "" if target.read() == sent else "what was written is not what is there"


def main() -> None:
    """The child: on standard output nothing, or why not."""
    interface, limit_s, device = sys.argv[1:]
    print(why_not(interface, float(limit_s), None if device == HOST else int(device)), end="", flush=True)


if __name__ == "__main__":
    main()
