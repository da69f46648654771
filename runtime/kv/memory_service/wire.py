"""Frames with file descriptors over a Unix socket, after both ends have proved the run's key."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Iterator, Sequence

import msgspec

from dynamoc.runtime.kv.memory_service.messages import Frame

FDS = 64
"""Descriptors beside one frame; the kernel takes 253."""
FRAME_LIMIT_S = 10.0
"""From a frame's first byte to its last."""
MAX_FRAME_BYTES = 16 << 20
_LENGTH = struct.Struct("<I")
_RANDOM_BYTES, _PROOF_BYTES = 16, 32
_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Frame)


class WireError(RuntimeError):
    """The other end is gone, is late, or does not speak as it should."""


def send(sock: socket.socket, frame: Frame, fds: Sequence[int] = ()) -> None:
    """One frame; WireError."""
    data = _ENCODER.encode(frame)
    with _named():
        sock.settimeout(FRAME_LIMIT_S)
        sent = socket.send_fds(sock, [_LENGTH.pack(len(data))], list(fds))
        sock.sendall((_LENGTH.pack(len(data)) + data)[sent:])


def receive(sock: socket.socket, limit_s: float | None = FRAME_LIMIT_S) -> tuple[Frame, list[int]]:
    """One frame, which must begin within the limit, and the descriptors beside it, which are the caller's to close."""
    with _named():
        sock.settimeout(limit_s)
        head, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, FDS, socket.MSG_CMSG_CLOEXEC)
        try:
            sock.settimeout(FRAME_LIMIT_S)
            return _DECODER.decode(_rest(sock, head)), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise


def _rest(sock: socket.socket, head: bytes) -> bytes:
    """What follows the first bytes of a frame."""
    if not head:
        raise WireError("the other end is gone")
    (size,) = _LENGTH.unpack(head + _exactly(sock, _LENGTH.size - len(head)))
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {size} B; the most is {MAX_FRAME_BYTES}")
    return _exactly(sock, size)


def greet_as_owner(sock: socket.socket, key: bytes) -> None:
    """Let a session prove the key, then prove it; WireError."""
    with _named():
        sock.settimeout(FRAME_LIMIT_S)
        mine = secrets.token_bytes(_RANDOM_BYTES)
        sock.sendall(mine)
        theirs = _exactly(sock, _RANDOM_BYTES)
        if not hmac.compare_digest(_exactly(sock, _PROOF_BYTES), _proof(key, b"session", mine + theirs)):
            raise WireError("the session does not hold the run's key")
        sock.sendall(_proof(key, b"owner", mine + theirs))


def greet_as_session(sock: socket.socket, key: bytes) -> None:
    """Prove the key and have the owner prove it; WireError."""
    with _named():
        sock.settimeout(FRAME_LIMIT_S)
        mine = secrets.token_bytes(_RANDOM_BYTES)
        nonces = _exactly(sock, _RANDOM_BYTES) + mine
        sock.sendall(mine + _proof(key, b"session", nonces))
        if not hmac.compare_digest(_exactly(sock, _PROOF_BYTES), _proof(key, b"owner", nonces)):
            raise WireError("the owner does not hold the run's key")


def _proof(key: bytes, side: bytes, nonces: bytes) -> bytes:
    return hmac.digest(key, b"memory-" + side + nonces, "sha256")


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise WireError("the other end is gone")
        data += part
    return bytes(data)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Errors of the socket and of what came over it, in our words."""
    try:
        yield
    except TimeoutError as error:
        raise WireError("the other end says nothing") from error
    except OSError as error:
        raise WireError(f"the other end is gone: {error}") from error
    except msgspec.MsgspecError as error:
        raise WireError(f"the other end does not speak as it should: {error}") from error
