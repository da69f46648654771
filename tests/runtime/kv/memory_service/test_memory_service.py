"""Shared memory outlives whoever wrote it, and is never seen half written: by killing and stopping real processes."""

from __future__ import annotations

import signal
import socket
import stat
import time
from typing import Any

import pytest

from dynamoc.runtime.kv.memory_service import wire
from dynamoc.runtime.kv.memory_service.host import HostMemory
from dynamoc.runtime.kv.memory_service.layout import Layout, TensorPlace
from dynamoc.runtime.kv.memory_service.lock import Mode
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError
from dynamoc.runtime.kv.memory_service.messages import Commit, Open
from dynamoc.runtime.kv.memory_service.session import Session

KEY = b"k" * 32
TENSORS = 6


def committed(service: Any) -> Any:
    (writer,) = service.users_opened(1)
    assert writer.ask("open either 5") == {"mode": "write"}
    assert writer.ask(f"fill {TENSORS}") == {"placed": TENSORS}
    assert len(writer.ask("commit model-a")["digest"]) == 64
    return writer


def test_two_readers_see_what_a_killed_writer_committed(service: Any) -> None:
    writer = committed(service)
    mine = writer.ask("read")
    writer.kill()
    readers = service.users_opened(2)

    for reader in readers:
        assert reader.ask("open either 5") == {"mode": "read"}
        assert reader.ask("read") == {"wrong": [], "tensors": TENSORS, "digest": mine["digest"]}


def test_a_writer_killed_while_it_loads_leaves_nothing_behind(service: Any) -> None:
    writer, waiting = service.users_opened(2)
    assert writer.ask("open either 5") == {"mode": "write"}
    waiting.tell("open either 20")
    writer.ask("fill 3")
    writer.kill()

    assert waiting.answer() == {"mode": "write"}
    assert waiting.ask("fill 1") == {"placed": 1}
    waiting.ask("commit model-a")
    assert waiting.ask("read")["tensors"] == 1


def test_whoever_waits_while_another_loads_reads_what_it_loaded(service: Any) -> None:
    writer, waiting = service.users_opened(2)
    writer.ask("open either 5")
    waiting.tell("open either 20")
    writer.ask(f"fill {TENSORS}")
    writer.ask("commit model-a")

    assert waiting.answer() == {"mode": "read"}
    assert waiting.ask("read")["wrong"] == []


def test_a_killed_reader_leaves_the_others_reading(service: Any) -> None:
    committed(service)
    one, other = service.users_opened(2)
    for reader in (one, other):
        assert reader.ask("open read 5") == {"mode": "read"}
    one.kill()

    assert other.ask("read")["wrong"] == []


def test_a_killed_owner_leaves_its_readers_with_their_memory(service: Any) -> None:
    writer = committed(service)
    assert service.end_owner() == -signal.SIGKILL

    assert writer.ask("read") == {**writer.ask("read"), "wrong": [], "tensors": TENSORS}
    service.start()
    (later,) = service.users_opened(1)
    assert later.ask("open either 5") == {"mode": "write"}, "a new owner has nothing"


def test_a_told_owner_goes_and_takes_its_socket_with_it(service: Any) -> None:
    committed(service)

    assert service.end_owner(signal.SIGTERM) == 0
    assert not service.path.exists()


def test_a_stopped_writer_is_named_to_whoever_waits(service: Any) -> None:
    writer, waiting = service.users_opened(2)
    writer.ask("open write 5")
    writer.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()

    answer = waiting.ask("open either 0.5")

    assert f"process {writer.process.pid} writes" in answer["error"]
    assert time.monotonic() - started < 5


def test_a_writer_waits_for_readers_and_new_readers_wait_for_it(service: Any) -> None:
    reader = committed(service)
    writer, late = service.users_opened(2)
    writer.tell("open write 20")
    time.sleep(0.2)
    assert "no read lock within 0.3 s" in late.ask("open read 0.3")["error"]
    reader.kill()

    assert writer.answer() == {"mode": "write"}


def test_nobody_can_write_to_what_is_committed(service: Any) -> None:
    committed(service)
    (reader,) = service.users_opened(1)
    reader.ask("open read 5")
    reader.tell("write")

    assert reader.process.wait(20) == -signal.SIGSEGV
    (other,) = service.users_opened(1)
    other.ask("open read 5")
    assert other.ask("read")["wrong"] == []


def test_a_tensor_still_in_use_keeps_its_writer_from_committing(service: Any) -> None:
    session = Session(service.path, KEY, HostMemory())
    session.open(Mode.WRITE, 5)
    place = session.place("a", (4,), "uint8", 1)
    look = memoryview(session.mapped[0].data)  # type: ignore[attr-defined]

    with pytest.raises(MemoryServiceError, match="still in use"):
        session.commit("model", (place,))
    look.release()
    session.commit("model", (place,))
    session.close()


def test_a_writer_that_keeps_its_mapping_is_refused_by_the_kernel(service: Any) -> None:
    session = Session(service.path, KEY, HostMemory())
    session.open(Mode.WRITE, 5)
    place = session.place("a", (4,), "uint8", 1)
    layout = Layout("model", (session.mapped[0].size,), (place,))
    session._send(Commit(layout))

    with pytest.raises(MemoryServiceError, match="still mapped to write"):
        session._answer(5)
    session.close()


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ((TensorPlace("a", 0, 1 << 40, (4,), "uint8", 1),), "cannot be there"),
        ((TensorPlace("a", 1, 0, (4,), "uint8", 1),), "allocation 1 of 1"),
        ((TensorPlace("a", 0, -4, (4,), "uint8", 1),), "offset -4"),
        ((TensorPlace("a", 0, 2, (4,), "float32", 4),), "offset 2"),
        ((TensorPlace("a", 0, 0, (-1, -4), "float32", 4),), "shape"),
        ((TensorPlace("a", 0, 0, (4,), "uint8", 1),) * 2, "named twice"),
    ],
)
def test_an_owner_refuses_a_layout_that_cannot_be(service: Any, tensors: tuple[TensorPlace, ...], fault: str) -> None:
    session = Session(service.path, KEY, HostMemory())
    session.open(Mode.WRITE, 5)
    session.place("a", (4,), "uint8", 1)
    session._send(Commit(Layout("model", (session.mapped[0].size,), tensors)))

    with pytest.raises(MemoryServiceError, match=fault):
        session._answer(5)
    session.close()


def test_without_the_key_there_is_no_session(service: Any) -> None:
    with pytest.raises(wire.WireError):
        Session(service.path, b"another key", HostMemory())


def test_nobody_else_may_open_the_socket(service: Any) -> None:
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x04\x00\x00\x00junk"])
def test_garbage_ends_its_session_alone(service: Any, garbage: bytes) -> None:
    reader = committed(service)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(service.path))
        wire.greet_as_session(sock, KEY)
        sock.sendall(garbage)
        assert sock.recv(16) == b""

    assert reader.ask("read")["wrong"] == []


def test_a_reader_that_goes_on_talking_is_cut_off(service: Any) -> None:
    committed(service)
    session = Session(service.path, KEY, HostMemory())
    session.open(Mode.READ, 5)
    session._send(Open(Mode.WRITE, 1))

    with pytest.raises(wire.WireError):
        session._answer(5)
    session.close()
