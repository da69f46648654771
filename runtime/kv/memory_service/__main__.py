"""`python -m dynamoc.runtime.kv.memory_service`: an owner, until a process it was told of ends or SIGTERM comes."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, memory_of
from dynamoc.runtime.kv.memory_service.owner import Owner
from dynamoc.runtime.kv.memory_service.shelf import Shelf
from dynamoc.runtime.process import set_up_logging


def main() -> int:
    """The run's key comes on standard input."""
    parser = argparse.ArgumentParser(prog="dynamoc.runtime.kv.memory_service")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--device", type=int, help="a GPU's number in this process; host memory if left out")
    parser.add_argument("--until", type=int, required=True, help="the process whose end is mine too")
    parser.add_argument("--detach", action="store_true", help="return once somebody listens, and leave it running")
    options = parser.parse_args()
    key = sys.stdin.buffer.read()
    return _detached(lambda said: _own(options, key, said)) if options.detach else _own(options, key, lambda: None)


def _own(options: argparse.Namespace, key: bytes, listening: Callable[[], None]) -> int:
    """Serve; 1 if that cannot be."""
    set_up_logging("memory-service")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    try:
        ended = os.pidfd_open(options.until)
        owner = Owner(options.socket, key, memory_of(options.device), Shelf(options.device))
    except (OSError, MemoryServiceError) as error:
        print(error, file=sys.stderr)
        return 1
    closing = _close_when(ended, owner)
    listening()
    owner.serve()
    closing.join()
    return 0


def _detached(own: Callable[[Callable[[], None]], int]) -> int:
    """Own in a child of which nobody is the parent; 0 once it listens. The device is first touched in the child."""
    reads, writes = os.pipe2(os.O_CLOEXEC)
    if not os.fork():
        os.close(reads)
        return own(lambda: os.close(os.write(writes, b"!") and writes))
    os.close(writes)
    return 0 if os.read(reads, 1) else 1


def _close_when(ended: int, owner: Owner) -> threading.Thread:
    """On SIGTERM or SIGINT, or with the process behind `ended`."""
    wake, woken = os.pipe2(os.O_CLOEXEC)[::-1]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(wake, b"!"))

    def wait() -> None:
        with contextlib.suppress(InterruptedError):
            select.select([ended, woken], [], [])
        owner.close()

    closing = threading.Thread(target=wait, name="end", daemon=True)
    closing.start()
    return closing


if __name__ == "__main__":
    sys.exit(main())
