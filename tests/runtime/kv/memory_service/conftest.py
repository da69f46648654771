"""A real owner and real users of its memory, each a process that a test may kill."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

KEY = b"k" * 32


class User:
    """The tests' handle on a process of `memory_user.py`."""

    def __init__(self, path: Path) -> None:
        words = [sys.executable, str(Path(__file__).with_name("memory_user.py")), str(path)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def answer(self, limit_s: float = 60) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], limit_s)[0], "no answer"
        line = self.process.stdout.readline()
        assert line, f"ended with {self.process.wait(10)}"
        return dict(json.loads(line))

    def ask(self, words: str) -> dict[str, Any]:
        self.tell(words)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


class Service:
    """An owner, and users that are started against it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users: list[User] = []
        self.owner: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "dynamoc.runtime.kv.memory_service", "--socket", str(self.path)]
        self.path.unlink(missing_ok=True)
        self.owner = subprocess.Popen([*words, "--until", str(os.getpid())], stdin=subprocess.PIPE)
        assert self.owner.stdin is not None
        self.owner.stdin.write(KEY)
        self.owner.stdin.close()
        until = time.monotonic() + 30
        while not self.path.exists():
            assert self.owner.poll() is None and time.monotonic() < until
            time.sleep(0.01)

    def users_opened(self, count: int) -> list[User]:
        made = [User(self.path) for _ in range(count)]
        self.users += made
        for user in made:
            assert user.answer() == {"opened": True}
        return made

    def end_owner(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.owner is not None
        self.owner.send_signal(number)
        return self.owner.wait(20)

    def end(self) -> None:
        for user in self.users:
            user.end()
        if self.owner is not None and self.owner.poll() is None:
            self.end_owner()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "memory.sock")
    made.start()
    yield made
    made.end()
