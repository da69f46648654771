"""TCP ports for tests: below those that the kernel gives to connections, and never those of another test process."""

from __future__ import annotations

import functools
import socket

HOST = "127.0.0.1"
FIRST, END = 10_000, 32_000
SHARE = 500


class Share:
    """The ports of one test process; a socket that stays bound to the first keeps others off them."""

    def __init__(self) -> None:
        for first in range(FIRST, END, SHARE):
            self.claim = socket.socket()
            try:
                self.claim.bind((HOST, first))
            except OSError:
                self.claim.close()
                continue
            self.first, self.end, self.next = first, first + SHARE, first + 1
            return
        raise RuntimeError("every share of ports is taken")

    def take(self, count: int) -> int:
        """The first of `count` consecutive ports that can be bound now; those given longest ago come round again."""
        for _ in range(SHARE):
            if self.next + count > self.end:
                self.next = self.first + 1
            base, self.next = self.next, self.next + count
            if self.next <= self.end and all(_is_free(port) for port in range(base, self.next)):
                return base
        raise RuntimeError(f"no {count} free ports from {self.first} on")


def free_port_base(count: int = 64) -> int:
    """The first of `count` consecutive free ports."""
    return _share().take(count)


def free_ports(count: int) -> list[int]:
    base = free_port_base(count)
    return list(range(base, base + count))


def free_port() -> int:
    return free_port_base(1)


@functools.cache
def _share() -> Share:
    return Share()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
