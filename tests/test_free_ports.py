"""Ports of two test processes never meet, and none is given twice while it is in use."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import free_ports
import pytest


def test_another_process_gets_other_ports() -> None:
    ours = set(free_ports.free_ports(100))
    words = "from free_ports import free_ports; print(*free_ports(100))"
    folder = Path(free_ports.__file__).parent
    said = subprocess.run([sys.executable, "-c", words], cwd=folder, capture_output=True, text=True, check=True).stdout
    theirs = set(map(int, said.split()))

    assert len(theirs) == 100
    assert not ours & theirs


def test_ports_come_round_again_but_not_while_they_are_in_use() -> None:
    first = free_ports.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        again = [free_ports.free_port() for _ in range(free_ports.SHARE)]

    assert first not in again
    assert len(set(again)) < len(again)


def test_more_than_a_share_is_never_had() -> None:
    with pytest.raises(RuntimeError, match="free ports"):
        free_ports.free_port_base(free_ports.SHARE)
