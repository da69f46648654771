"""Waits for the agent to end, however that happens, and ends what it left behind.

The agent holds the other end of this process's standard input; the kernel closes it when the agent dies.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from dynamoc.runtime.agent.family import kill_family

PATIENCE_S = 10.0


def main(marks: list[str]) -> int:
    """`marks` are NAME=VALUE words; 0 when nothing is left, 1 when something would not die."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    wanted = dict(mark.split("=", 1) for mark in marks)
    deadline = time.monotonic() + PATIENCE_S
    while kill_family(wanted):
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.005)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
