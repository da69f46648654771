"""Whether NIXL moves bytes on this node, found out in a child process: a library or a driver may hang on the way.

Two agents over one interface; one writes random bytes into memory of the other.
"""

from __future__ import annotations

import mmap
import secrets
import sys
import time

import numpy as np

from dynamoc.runtime.transports.nixl_agent import Agent, pause
from dynamoc.runtime.transports.probe_child import ask_child
from dynamoc.runtime.transports.protocol import TransportError

LIMIT_S = 30.0


async def probe(interface: str, limit_s: float = LIMIT_S) -> None:
    """TransportError if bytes do not arrive, or if that is not known within the limit."""
    await ask_child(f"nixl over {interface}", __name__, [interface, str(limit_s)], b"", limit_s)


def why_not(interface: str, limit_s: float) -> str:
    """Why bytes would not arrive; empty if they would."""
    try:
        writer, owner = (Agent(secrets.token_hex(8), interface) for _ in range(2))
        source, target = mmap.mmap(-1, mmap.PAGESIZE), mmap.mmap(-1, mmap.PAGESIZE)
        addresses = [int(np.frombuffer(memory, np.uint8).ctypes.data) for memory in (source, target)]
        source[:] = secrets.token_bytes(mmap.PAGESIZE)
        writer.register(addresses[0], mmap.PAGESIZE)
        writer.add(owner.register(addresses[1], mmap.PAGESIZE))
        write = writer.write(addresses[0], mmap.PAGESIZE, owner.name, addresses[1])
        began = time.monotonic()
        while not write.is_done():
            if time.monotonic() > began + limit_s:
                return f"nothing arrives within {limit_s:g} s"
            owner.progress()
            pause(began)
        return "" if source[:] == target[:] else "what was written is not what is there"
    except TransportError as error:
        return str(error)


def main() -> None:
    """The child: on standard output nothing, or why not."""
    print(why_not(sys.argv[1], float(sys.argv[2])), end="", flush=True)


if __name__ == "__main__":
    main()
