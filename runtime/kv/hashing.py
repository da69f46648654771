"""Names of blocks, alike for workers and routers (the scheme of Dynamo's `kv-router`: events interoperate)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import xxhash

SEED = 1337
TOKEN_BYTES = 4

_pack_pair = struct.Struct("<QQ").pack
_hash = xxhash.xxh3_64_intdigest


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as u32 little-endian, the form they have on the planes."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(data: bytes) -> list[int]:
    """The inverse of `pack_tokens`."""
    return list(struct.unpack(f"<{len(data) // TOKEN_BYTES}I", data))


def local_hashes(tokens: bytes, block_size: int) -> list[int]:
    """XXH3-64 of the tokens of each full block; a partial last block has no hash."""
    stride = block_size * TOKEN_BYTES
    full = len(tokens) // stride
    return [_hash(tokens[start : start + stride], SEED) for start in range(0, full * stride, stride)]


def extend(parent: int | None, local: int) -> int:
    """A block's sequence hash: its local hash chained to its parent; a first block's is its local hash."""
    return local if parent is None else _hash(_pack_pair(parent, local), SEED)


def sequence_hashes(locals_: Sequence[int], parent: int | None = None) -> list[int]:
    """The sequence hashes of consecutive blocks after `parent`."""
    hashes = []
    for local in locals_:
        parent = extend(parent, local)
        hashes.append(parent)
    return hashes
