"""The universal page: one block's KV as it is kept off the device, and the header that says what it is.

A page is `[head][layer][k/v][token][dim]`, so the heads of any tensor-parallel rank are one run of it. A *frame* is a
page in memory, on disk or as an object: a header of `ALIGN` bytes, then the page, padded to a multiple of `ALIGN`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import msgspec
import xxhash

from dynamoc.runtime.kv.layout import Heads, KvLayout

ALIGN = 4096
"""O_DIRECT wants memory, offsets and lengths to be multiples of this."""
NAME_BYTES = 16
VERSION = 1

_MAGIC = b"DYNOCKV1"
_FIXED = struct.Struct("<8sII16s16s16sQQQQHHH")
_SUM = struct.Struct("<Q")
_MAX_HEADS = (ALIGN - _FIXED.size - _SUM.size) // _SUM.size
_NO_PARENT = bytes(NAME_BYTES)

_checksum = xxhash.xxh3_64_intdigest


class PageError(ValueError):
    """A frame is not the page that was asked for, or not whole."""


class PageKey(msgspec.Struct, frozen=True):
    """A block off the device. `name` is a cryptographic hash over all tokens up to its end: equal name, equal KV.

    The other hashes are what routers call it and its parent.
    """

    name: bytes
    parent: bytes | None
    sequence_hash: int
    local_hash: int
    parent_hash: int | None


class PageFormat(msgspec.Struct, frozen=True):
    """How one worker's pages look. Equal `digest`, the same model: its ranks may differ in `heads` only."""

    digest: bytes
    head_bytes: int
    heads: Heads

    @property
    def page_bytes(self) -> int:
        """Bytes of KV in a page."""
        return self.head_bytes * self.heads.count

    @property
    def frame_bytes(self) -> int:
        """Header, page and padding."""
        return ALIGN + -(-self.page_bytes // ALIGN) * ALIGN


def page_format(layout: KvLayout, model: str, heads: Heads | None = None) -> PageFormat:
    """The pages of a rank with this layout; `heads` None: it has them all. ValueError if they cannot be described."""
    heads = heads or Heads(0, layout.heads, layout.heads)
    if heads.count != layout.heads or not 0 <= heads.first <= heads.total - heads.count:
        raise ValueError(f"a rank with {layout.heads} heads cannot hold {heads}")
    if heads.count > _MAX_HEADS:
        raise ValueError(f"a page holds at most {_MAX_HEADS} heads, not {heads.count}")
    facts = (VERSION, model, layout.layers, layout.parts, heads.total, layout.head_dim, layout.block_size, layout.dtype)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=NAME_BYTES).digest()
    return PageFormat(digest, layout.block_bytes // layout.heads, heads)


def page_name(parent: bytes | None, tokens: bytes) -> bytes:
    """The name of the block with these packed tokens after `parent`."""
    return hashlib.blake2b(tokens, digest_size=NAME_BYTES, key=parent or b"").digest()


def page_of(format_: PageFormat, frame: memoryview) -> memoryview:
    """The KV within a frame."""
    return frame[ALIGN : ALIGN + format_.page_bytes]


def seal(format_: PageFormat, key: PageKey, frame: memoryview) -> None:
    """Write the header of a frame whose page is complete."""
    heads, page = format_.heads, page_of(format_, frame)
    sums = _head_sums(page, format_.head_bytes, heads.count)
    fixed = _FIXED.pack(
        _MAGIC,
        VERSION,
        key.parent_hash is not None,
        format_.digest,
        key.name,
        key.parent or _NO_PARENT,
        key.sequence_hash,
        key.local_hash,
        key.parent_hash or 0,
        format_.page_bytes,
        heads.first,
        heads.count,
        heads.total,
    )
    header = fixed + struct.pack(f"<{heads.count}Q", *sums)
    header = header.ljust(ALIGN - _SUM.size, b"\0")
    frame[:ALIGN] = header + _SUM.pack(_checksum(header))


def read_header(format_: PageFormat, header: memoryview | bytes) -> tuple[PageKey, Heads, tuple[int, ...]]:
    """What a frame says it is, and the checksum of each of its heads; PageError if it is not of this model."""
    if len(header) < ALIGN:
        raise PageError("no header")
    body = bytes(header[: ALIGN - _SUM.size])
    magic, version, has_parent, digest, name, parent, sequence, local, parent_hash, size, *heads = _FIXED.unpack_from(
        body
    )
    if magic != _MAGIC or _SUM.pack(_checksum(body)) != header[ALIGN - _SUM.size : ALIGN]:
        raise PageError("no header, or a damaged one")
    if version != VERSION or digest != format_.digest:
        raise PageError("a page of another model, layout or version")
    run = Heads(*heads)
    if size != run.count * format_.head_bytes or run.total != format_.heads.total:
        raise PageError(f"{size} bytes are not {run.count} heads of {format_.head_bytes} bytes")
    sums = struct.unpack_from(f"<{run.count}Q", body, _FIXED.size)
    key = PageKey(name, parent if has_parent else None, sequence, local, parent_hash if has_parent else None)
    return key, run, sums


def check(format_: PageFormat, name: bytes, frame: memoryview) -> None:
    """PageError unless the frame holds the page of that name for exactly this rank's heads, every byte right."""
    key, heads, sums = read_header(format_, frame)
    if key.name != name:
        raise PageError("the page of another block")
    if heads != format_.heads:
        raise PageError(f"the page holds {heads}, not {format_.heads}")
    if _head_sums(page_of(format_, frame), format_.head_bytes, heads.count) != sums:
        raise PageError("the page's checksum is wrong")


def assemble(format_: PageFormat, key: PageKey, parts: Sequence[memoryview], frame: memoryview) -> None:
    """Fill a rank's frame from those of ranks with other heads; PageError unless they are right and cover its own."""
    wanted, page = format_.heads, page_of(format_, frame)
    missing = set(range(wanted.first, wanted.first + wanted.count))
    for part in parts:
        found, run, sums = read_header(format_, part)
        if found.name != key.name:
            raise PageError("the page of another block")
        for head in sorted(missing & set(range(run.first, run.first + run.count))):
            start = ALIGN + (head - run.first) * format_.head_bytes
            data = part[start : start + format_.head_bytes]
            if len(data) != format_.head_bytes or _checksum(data) != sums[head - run.first]:
                raise PageError("the page's checksum is wrong")
            into = (head - wanted.first) * format_.head_bytes
            page[into : into + format_.head_bytes] = data
            missing.remove(head)
    if missing:
        raise PageError(f"no page holds the heads {sorted(missing)}")
    seal(format_, key, frame)


def _head_sums(page: memoryview, head_bytes: int, count: int) -> tuple[int, ...]:
    return tuple(_checksum(page[head * head_bytes : (head + 1) * head_bytes]) for head in range(count))
