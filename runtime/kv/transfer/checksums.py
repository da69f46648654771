"""One xxh3-64 per block: taken from the source as it is sent, checked over the destination's own memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import xxhash

from dynamoc.runtime.kv.pool import HostPool

_digest = xxhash.xxh3_64_intdigest


def pack_checksums(checksums: Sequence[int]) -> bytes:
    """Checksums as u64 little-endian, the form they have on the planes."""
    return struct.pack(f"<{len(checksums)}Q", *checksums)


def mismatches(pool: HostPool, blocks: Sequence[int], checksums: bytes) -> list[int]:
    """The blocks whose bytes are not what was sent: all of them, if there is not one checksum per block.

    Made for a thread: hashing releases the interpreter's lock.
    """
    if len(checksums) != 8 * len(blocks):
        return list(blocks)
    expected = struct.unpack(f"<{len(blocks)}Q", checksums)
    return [block for block, want in zip(blocks, expected, strict=True) if _digest(pool.block(block)) != want]
