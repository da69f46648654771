"""What shm alone promises: only the pool that was offered is mapped, and it cannot shrink under the writer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pool_process import KEY, layout_of

from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.shm import ShmTransport

BLOCK = 4096


def another_boot(metadata: list[Any]) -> None:
    metadata[0][0] = "00000000-0000-0000-0000-000000000000"


def another_namespace(metadata: list[Any]) -> None:
    metadata[0][1] = "pid:[1]"


def another_user(metadata: list[Any]) -> None:
    metadata[1] += 1


def another_nonce(metadata: list[Any]) -> None:
    metadata[3] = bytes(16)


def more_blocks(metadata: list[Any]) -> None:
    metadata[4] += 1


def no_such_descriptor(metadata: list[Any]) -> None:
    metadata[2] = 9999


def some_other_file(metadata: list[Any]) -> None:
    metadata[2] = 0  # whatever standard input is, it is no pool


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_boot, "on one host"),
        (another_namespace, "one pid namespace"),
        (another_user, "run as one user"),
        (another_nonce, "holds another pool"),
        (more_blocks, "holds something else"),
        (no_such_descriptor, "cannot be mapped"),
        (some_other_file, "holds something else"),
    ],
)
def test_what_was_not_offered_is_not_mapped(change: Callable[[list[Any]], None], reason: str) -> None:
    async def test() -> None:
        owned, source = HostPool(layout_of(BLOCK), 4), HostPool(layout_of(BLOCK), 4)
        owner, writer = ShmTransport(KEY), ShmTransport(KEY)
        owner.register(owned)
        writer.register(source)
        metadata = msgspec.msgpack.decode(owner.metadata())
        change(metadata)

        with pytest.raises(TransportError, match=reason):
            await writer.connect(msgspec.msgpack.encode(metadata), 1)
        await writer.close()
        await owner.close()
        owned.close()
        source.close()

    asyncio.run(test())


def test_a_pool_can_never_shrink() -> None:
    pool = HostPool(layout_of(BLOCK), 4)
    with pytest.raises(PermissionError):
        os.ftruncate(pool.fd, 0)
    pool.close()


def test_nothing_is_known_of_a_writer_elsewhere() -> None:
    transport = ShmTransport(KEY)
    boot, namespace, pid, started = msgspec.msgpack.decode(transport.writer())

    def gone(*process: object) -> bool:
        return transport.writer_gone(msgspec.msgpack.encode(process))

    assert not gone(boot, namespace, pid, started)
    assert gone(boot, namespace, pid, started - 1)  # the number was given to another process since
    assert gone(boot, namespace, 2**22 + 1, started)
    assert not gone(boot, "pid:[1]", 2**22 + 1, started)
