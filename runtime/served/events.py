"""KV events of an engine: batches over ZeroMQ, numbered, in msgpack, as vLLM and SGLang publish them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from dynamoc.runtime.plane.messages import KvEvent
from dynamoc.runtime.served.blocks import Blocks

HOST = "127.0.0.1"
"""The engine publishes on its own node, to the process beside it."""
QUEUED_BATCHES = 100_000
PARTS = 3
"""Topic, number, batch."""
STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
)
REMOVED = ("block_hashes", "medium")
"""Fields in order, for versions that write events as arrays behind their type."""

log = logging.getLogger(__name__)


class EventsError(ValueError):
    """Not events as the engines are known to publish them."""


class Subscriber:
    """Listens where the engine connects to: bound before the engine starts, so that its first event finds us."""

    def __init__(self, port: int) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, QUEUED_BATCHES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.subscribe(b"")
        self._expected: int | None = None
        try:
            self._socket.bind(f"tcp://{HOST}:{port}")
        except zmq.ZMQError as error:
            self.close()
            raise OSError(f"cannot listen for KV events at {HOST}:{port}: {error}") from error

    def close(self) -> None:
        """Stop listening."""
        self._context.destroy(linger=0)

    async def follow(self, blocks: Blocks, on_events: Callable[[list[KvEvent]], None]) -> None:
        """Until cancelled: what every batch changes. After a gap nothing is known to be there any more."""
        while True:
            parts = await self._socket.recv_multipart()
            events = self._take(parts, blocks)
            if events:
                on_events(events)

    def _take(self, parts: Sequence[bytes], blocks: Blocks) -> list[KvEvent]:
        if len(parts) != PARTS:
            log.warning("a message of %d parts is no batch of KV events", len(parts))
            return []
        changes: list[KvEvent] = []
        sequence = int.from_bytes(parts[1], "big")
        if self._expected is not None and sequence != self._expected:
            log.warning("KV event %d was due, %d came: what was known is dropped", self._expected, sequence)
            changes += blocks.cleared()
        self._expected = sequence + 1
        try:
            return changes + translate(parts[2], blocks)
        except EventsError as error:
            log.warning("KV events were not understood (%s): what was known is dropped", error)
            return changes + blocks.cleared()


def translate(payload: bytes, blocks: Blocks) -> list[KvEvent]:
    """What a batch changes; EventsError if it is none."""
    try:
        body = msgspec.msgpack.decode(payload)
        events = [_named(event) for event in body[1]]
        return [change for event in events for change in _apply(event, blocks)]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        raise EventsError(f"{type(error).__name__}: {error}") from error


def _named(event: Any) -> Mapping[str, Any]:
    if isinstance(event, dict):
        return event
    fields = {"BlockStored": STORED, "BlockRemoved": REMOVED}.get(event[0], ())
    return {"type": event[0], **dict(zip(fields, event[1:], strict=False))}


def _apply(event: Mapping[str, Any], blocks: Blocks) -> list[KvEvent]:
    match event["type"]:
        case "BlockStored":
            if _is_more_than_tokens(event):
                return []
            hashes, parent, tokens = event["block_hashes"], event["parent_block_hash"], event["token_ids"]
            return blocks.stored(hashes, parent, tokens, event["block_size"], event.get("medium"))
        case "BlockRemoved":
            return blocks.removed(event["block_hashes"], event.get("medium"))
        case "AllBlocksCleared":
            return blocks.cleared()
        case other:
            raise EventsError(f"unknown event `{other}`")


def _is_more_than_tokens(event: Mapping[str, Any]) -> bool:
    """Blocks of an adapter, or of images, hold other KV than their tokens say."""
    extra = event.get("extra_keys")
    keyed = any(extra) if isinstance(extra, list) else extra is not None
    return event.get("lora_id") is not None or event.get("lora_name") is not None or keyed
