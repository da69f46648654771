"""An engine's block events become claims of our router: right ones, or none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamoc.runtime.kv.hashing import local_hashes, pack_tokens, sequence_hashes
from dynamoc.runtime.plane.messages import BlocksCleared, BlocksRemoved, BlocksStored
from dynamoc.runtime.router.index import PrefixIndex
from dynamoc.runtime.served.blocks import Blocks
from dynamoc.runtime.served.events import EventsError, translate

SIZE = 4
PROMPT = list(range(100, 100 + 3 * SIZE))


def named(hashes: list[Any], parent: Any, tokens: list[int], **more: Any) -> dict[str, Any]:
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens}
    return {
        **event,
        "block_size": SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": None,
        **more,
    }


def batch(*events: Any) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def held(blocks: Blocks, *payloads: bytes) -> int:
    """Leading blocks of the prompt that a router finds after these batches."""
    index = PrefixIndex()
    index.add_worker("w")
    for payload in payloads:
        for event in translate(payload, blocks):
            index.apply("w", event)
    matched = index.find(local_hashes(pack_tokens(PROMPT), SIZE)).get("w")
    return matched[0] if matched else 0


@pytest.mark.parametrize("names", [[11, 22, 33], [b"a", b"b", b"c"]], ids=["numbers", "bytes"])
def test_blocks_are_found_under_our_names(names: list[Any]) -> None:
    blocks = Blocks(SIZE)
    first, rest = named(names[:1], None, PROMPT[:SIZE]), named(names[1:], names[0], PROMPT[SIZE:])

    assert held(blocks, batch(first), batch(rest)) == 3
    assert blocks.count("G1") == 3
    hashes = sequence_hashes(local_hashes(pack_tokens(PROMPT), SIZE))
    assert [event.blocks[0].sequence_hash for event in blocks.resident()] == hashes  # type: ignore[union-attr]
    assert [event.parent for event in blocks.resident()] == [None, *hashes[:-1]]  # type: ignore[union-attr]


def test_events_of_older_versions_are_arrays() -> None:
    stored = ["BlockStored", [1, 2, 3], None, PROMPT, SIZE, None]

    assert held(Blocks(SIZE), batch(stored)) == 3
    assert held(Blocks(SIZE), batch(stored, ["BlockRemoved", [3]])) == 2
    assert held(Blocks(SIZE), batch(stored, ["AllBlocksCleared"])) == 0


def test_what_left_is_not_claimed_and_not_said_twice() -> None:
    blocks = Blocks(SIZE)
    translate(batch(named([1, 2, 3], None, PROMPT), named([1], None, PROMPT[:SIZE])), blocks)
    removed = {"type": "BlockRemoved", "block_hashes": [3, 99], "medium": "GPU"}
    last = sequence_hashes(local_hashes(pack_tokens(PROMPT), SIZE))[-1]

    assert translate(batch(removed), blocks) == [BlocksRemoved((last,), "G1")]
    assert translate(batch(removed), blocks) == []
    assert blocks.count("G1") == 2


def test_a_parent_that_came_back_is_told_before_its_children() -> None:
    blocks = Blocks(SIZE)
    translate(batch(named([1, 2], None, PROMPT[: 2 * SIZE]), named([9], None, PROMPT[SIZE : 2 * SIZE])), blocks)
    translate(batch({"type": "BlockRemoved", "block_hashes": [1, 9]}), blocks)
    assert blocks.resident() == []  # the second hangs in the air

    translate(batch(named([1], None, PROMPT[:SIZE])), blocks)
    hashes = sequence_hashes(local_hashes(pack_tokens(PROMPT), SIZE))
    assert [event.blocks[0].sequence_hash for event in blocks.resident()] == hashes[:2]  # type: ignore[union-attr]


def test_a_block_may_be_in_two_tiers() -> None:
    blocks = Blocks(SIZE)
    translate(batch(named([1], None, PROMPT[:SIZE]), named([1], None, PROMPT[:SIZE], medium="CPU")), blocks)
    translate(batch({"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}), blocks)

    assert (blocks.count("G1"), blocks.count("G2")) == (0, 1)
    assert [event.tier for event in blocks.resident()] == ["G2"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "event",
    [
        named([2], 1, PROMPT[:SIZE]),
        named([1], None, PROMPT[:SIZE], lora_id=3),
        named([1], None, PROMPT[:SIZE], lora_name="poet"),
        named([1], None, PROMPT[:SIZE], extra_keys=[["image"]]),
        named([1], None, PROMPT[:SIZE], medium="FLOPPY"),
        named([1], None, PROMPT, block_size=3 * SIZE),
        named([1, 2], None, PROMPT),
    ],
    ids=["unknown parent", "adapter", "named adapter", "image", "medium", "block size", "too many tokens"],
)
def test_what_tokens_alone_do_not_say_is_not_claimed(event: dict[str, Any]) -> None:
    blocks = Blocks(SIZE)

    assert translate(batch(event), blocks) == []
    assert blocks.resident() == []


def test_extra_keys_that_say_nothing_are_no_reason() -> None:
    assert held(Blocks(SIZE), batch(named([1, 2, 3], None, PROMPT, extra_keys=[None, None, None]))) == 3


@pytest.mark.parametrize("payload", [b"\xc1", msgspec.msgpack.encode([1.0]), batch({"type": "Odd"}), batch({})])
def test_what_is_no_batch_says_so(payload: bytes) -> None:
    with pytest.raises(EventsError):
        translate(payload, Blocks(SIZE))


def test_clearing_is_said_once() -> None:
    blocks = Blocks(SIZE)
    events = translate(batch(named([1], None, PROMPT[:SIZE])), blocks)

    assert isinstance(events[0], BlocksStored)
    assert blocks.cleared() == [BlocksCleared()]
    assert blocks.cleared() == []
