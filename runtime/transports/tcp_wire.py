"""What passes over a tcp data connection: a proof of the run's key, then transfers one after another.

A transfer is a header, the destination blocks, an answer, the bytes of those blocks, unit by unit, and another answer.
The answer is a status byte; a refusal goes on with its reason and ends the connection.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from dynamoc.runtime.transports.protocol import TransportError

HEADER = struct.Struct("<QIIIIIIId")
MAX_REASON_BYTES = 1024
POLL_S = 0.05
"""How long a blocked send or receive may go without asking whether it should go on."""

_GREETING = b"dynamoc-kv/1"
_RANDOM_BYTES = 16
_PROOF_BYTES = 32
_OK, _REFUSED = b"\x00", b"\x01"

Check = Callable[[], None]
"""Raises when the caller must not wait any longer."""


class Header(NamedTuple):
    """What is sent: `row_bytes` of each of so many blocks, which are some layers of the heads that the writer has."""

    tag: int
    blocks: int
    row_bytes: int
    first_layer: int
    end_layer: int
    first_head: int
    heads: int
    all_heads: int
    seconds_left: float


def until(deadline: float, what: str) -> Check:
    """A check against a point of the monotonic clock."""

    def check() -> None:
        if time.monotonic() > deadline:
            raise TransportError(f"{what}: deadline passed")

    return check


def send_all(sock: socket.socket, data: bytes | memoryview, check: Check) -> None:
    """Send everything; `check` is asked whenever the peer does not take more."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        try:
            view = view[sock.send(view) :]
        except TimeoutError:
            check()


def receive_into(sock: socket.socket, view: memoryview, check: Check) -> None:
    """Fill `view`; TransportError if the peer closes before."""
    while view.nbytes:
        try:
            got = sock.recv_into(view)
        except TimeoutError:
            check()
            continue
        if not got:
            raise TransportError("the peer closed the data connection")
        view = view[got:]


def receive(sock: socket.socket, size: int, check: Check) -> bytes:
    """Exactly `size` bytes."""
    data = bytearray(size)
    receive_into(sock, memoryview(data), check)
    return bytes(data)


def accept_answer(sock: socket.socket, check: Check) -> None:
    """Wait for the peer's answer; TransportError with its reason if it refused."""
    if receive(sock, 1, check) != _OK:
        size = min(int.from_bytes(receive(sock, 2, check), "little"), MAX_REASON_BYTES)
        raise TransportError(f"the peer refused: {receive(sock, size, check).decode(errors='replace')}")


def answer_ok(sock: socket.socket, check: Check) -> None:
    """Tell the peer to go on, or that everything arrived."""
    send_all(sock, _OK, check)


def answer_refused(sock: socket.socket, reason: str, check: Check) -> None:
    """Tell the peer why not."""
    text = reason.encode()[:MAX_REASON_BYTES]
    send_all(sock, _REFUSED + len(text).to_bytes(2, "little") + text, check)


def greet_as_writer(sock: socket.socket, key: bytes, pool: bytes, check: Check) -> None:
    """Prove the key to the owner of `pool` and have it prove the same; TransportError if it cannot."""
    greeting = receive(sock, len(_GREETING) + _RANDOM_BYTES, check)
    if not greeting.startswith(_GREETING):
        raise TransportError("the peer does not speak dynamoc-kv/1")
    mine = secrets.token_bytes(_RANDOM_BYTES)
    nonces = greeting + mine + pool
    send_all(sock, mine + pool + _proof(key, b"writer", nonces), check)
    accept_answer(sock, check)
    if not hmac.compare_digest(receive(sock, _PROOF_BYTES, check), _proof(key, b"owner", nonces)):
        raise TransportError("the peer does not hold the run's key")


def greet_as_owner(sock: socket.socket, key: bytes, pool: bytes, check: Check) -> None:
    """Let a writer prove the key and name the pool it means; TransportError if either is wrong."""
    greeting = _GREETING + secrets.token_bytes(_RANDOM_BYTES)
    send_all(sock, greeting, check)
    theirs = receive(sock, _RANDOM_BYTES, check)
    wanted = receive(sock, len(pool), check)
    nonces = greeting + theirs + wanted
    reason = ""
    if not hmac.compare_digest(receive(sock, _PROOF_BYTES, check), _proof(key, b"writer", nonces)):
        reason = "the writer does not hold the run's key"
    elif wanted != pool:
        reason = "the pool that was offered is gone; another one is here"
    if reason:
        answer_refused(sock, reason, check)
        raise TransportError(reason)
    answer_ok(sock, check)
    send_all(sock, _proof(key, b"owner", nonces), check)


def _proof(key: bytes, side: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, b"kv-" + side + nonces, "sha256")
