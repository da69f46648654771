"""Real publishers that connect to our subscriber, as the engines do."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio
from free_ports import free_port

from dynamoc.runtime.plane.messages import BlocksCleared, BlocksStored, KvEvent
from dynamoc.runtime.served.blocks import Blocks
from dynamoc.runtime.served.events import Subscriber

SIZE = 2
LIMIT_S = 10.0


def stored(name: int) -> dict[str, Any]:
    tokens = [name] * SIZE
    return {"type": "BlockStored", "block_hashes": [name], "parent_block_hash": None, "token_ids": tokens,
            "block_size": SIZE, "lora_id": None, "medium": "GPU"}  # fmt: skip


async def heard(messages: list[list[bytes]], until: int) -> tuple[list[KvEvent], Blocks]:
    """What becomes of these messages, once `until` events came of them."""
    port, blocks, events, enough = free_port(), Blocks(SIZE), list[KvEvent](), asyncio.Event()

    def take(new: list[KvEvent]) -> None:
        events.extend(new)
        if len(events) >= until:
            enough.set()

    subscriber = Subscriber(port)
    following = asyncio.create_task(subscriber.follow(blocks, take))
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.connect(f"tcp://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(LIMIT_S):
            await publisher.recv()  # the subscription: from now on nothing is lost
            for message in messages:
                await publisher.send_multipart(message)
            await enough.wait()
    finally:
        following.cancel()
        subscriber.close()
        context.destroy(linger=0)
    return events, blocks


def message(sequence: int, *events: Any) -> list[bytes]:
    return [b"kv", sequence.to_bytes(8, "big"), msgspec.msgpack.encode([0.5, list(events), 0])]


def test_batches_in_order_are_events_in_order() -> None:
    events, blocks = asyncio.run(heard([message(7, stored(1)), message(8, stored(2), stored(3))], 3))

    assert [type(event) for event in events] == [BlocksStored] * 3
    assert blocks.count("G1") == 3


@pytest.mark.parametrize(
    "broken",
    [message(2, stored(9)), [b"kv", (1).to_bytes(8, "big"), b"\xc1"]],
    ids=["gap", "garbage"],
)
def test_after_a_gap_nothing_before_it_is_claimed(broken: list[bytes]) -> None:
    after = message(int.from_bytes(broken[1], "big") + 1, stored(2))
    lost_and_new = 3 + (len(broken[2]) > 1)
    events, blocks = asyncio.run(heard([message(0, stored(1)), broken, after], lost_and_new))

    assert events[1] == BlocksCleared()
    assert blocks.count("G1") == lost_and_new - 2


def test_other_messages_are_left_alone() -> None:
    events, _ = asyncio.run(heard([[b"kv"], message(0, stored(1))], 1))

    assert len(events) == 1


def test_a_port_that_is_taken_is_an_error_with_its_name() -> None:
    async def run() -> None:
        port = free_port()
        first = Subscriber(port)
        try:
            with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
                Subscriber(port)
        finally:
            first.close()

    asyncio.run(run())
