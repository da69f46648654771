"""The universal page: one block's KV as it is kept off the device, and the header that says what it is.

A page is `[layer][k/v][head][token][dim]`, as a block of our pools is: copies need no permutation, and consecutive
layers are one run of it. A *frame* is a page in memory, on disk or as an object: a header of `ALIGN` bytes with a
checksum for each *group* of layers, then the page, padded to a multiple of `ALIGN`. So many layers are a group that
each begins at a multiple of `ALIGN`, whatever heads a rank has.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Sequence

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from dynamoc.runtime.kv.layout import Heads, KvLayout, Span

ALIGN = 4096
"""O_DIRECT wants memory, offsets and lengths to be multiples of this."""
NAME_BYTES = 16
VERSION = 2
MOST_GROUPS = 8
"""Of layers. What of a load its computation cannot hide is about one of them; each costs a checksum, and a copy."""

_MAGIC = b"DYNOCKV1"
_FIXED = struct.Struct("<8sII16s16s16sQQQQHHH")
_SUM = struct.Struct("<Q")
_NO_PARENT = bytes(NAME_BYTES)

_checksum = xxhash.xxh3_64_intdigest
Digests = tuple[int, ...]
"""The checksum of each group of layers, in order."""


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
    """How one worker's pages look. Equal `digest`, the same model: its ranks may differ in `heads` only.

    `rows` are parts of layers, each with `run_bytes` for every head.
    """

    digest: bytes
    heads: Heads
    layers: int
    rows: int
    run_bytes: int
    group_layers: int

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer."""
        return self.page_bytes // self.layers

    @property
    def page_bytes(self) -> int:
        """Bytes of KV in a page."""
        return self.rows * self.heads.count * self.run_bytes

    @property
    def frame_bytes(self) -> int:
        """Header, page and padding."""
        return ALIGN + -(-self.page_bytes // ALIGN) * ALIGN

    @property
    def groups(self) -> int:
        """How many groups of layers there are."""
        return -(-self.layers // self.group_layers)

    def pieces(self, least_bytes: int = 0) -> tuple[range, ...]:
        """All layers in runs of as few whole groups as take up so many bytes."""
        per_piece = max(1, min(self.groups, -(-least_bytes // (self.group_layers * self.layer_bytes))))
        count = self.groups // per_piece
        # What is left over is spread: the last piece is no crumb.
        ends = [min(self.layers, self.groups * n // count * self.group_layers) for n in range(count + 1)]
        return tuple(range(*ends_of) for ends_of in itertools.pairwise(ends))

    def span(self, layers: range) -> Span:
        """Where consecutive layers are in a page."""
        return Span(layers.start * self.layer_bytes, len(layers) * self.layer_bytes)


def page_format(layout: KvLayout, model: str, heads: Heads | None = None) -> PageFormat:
    """The pages of a rank with this layout; `heads` None: it has them all. ValueError if they cannot be described."""
    heads = heads or Heads(0, layout.heads, layout.heads)
    if heads.count != layout.heads or not 0 <= heads.first <= heads.total - heads.count:
        raise ValueError(f"a rank with {layout.heads} heads cannot hold {heads}")
    run_bytes = layout.block_size * layout.run_bytes
    group = _group_layers(layout.layers, layout.parts * run_bytes)
    facts = (VERSION, model, layout.layers, layout.parts, heads.total, layout.head_dim, layout.block_size, layout.dtype)
    digest = hashlib.blake2b(repr((*facts, group)).encode(), digest_size=NAME_BYTES).digest()
    return PageFormat(digest, heads, layout.layers, layout.layers * layout.parts, run_bytes, group)


def _group_layers(layers: int, head_bytes: int) -> int:
    """Layers in a group: the same for ranks of any number of heads, `head_bytes` each in one layer."""
    aligned = ALIGN // math.gcd(ALIGN, head_bytes)
    wanted = -(-layers // MOST_GROUPS)
    return min(layers, -(-wanted // aligned) * aligned)


def page_name(parent: bytes | None, tokens: bytes) -> bytes:
    """The name of the block with these packed tokens after `parent`."""
    return hashlib.blake2b(tokens, digest_size=NAME_BYTES, key=parent or b"").digest()


def page_of(format_: PageFormat, frame: memoryview) -> memoryview:
    """The KV within a frame."""
    return frame[ALIGN : ALIGN + format_.page_bytes]


def seal(format_: PageFormat, key: PageKey, frame: memoryview, sums: Digests | None = None) -> None:
    """Write the header of a frame whose page is complete; `sums` are its checksums, if they are known."""
    frame[:ALIGN] = header_of(format_, key, page_of(format_, frame), sums)


def header_of(format_: PageFormat, key: PageKey, page: memoryview, sums: Digests | None = None) -> bytes:
    """What comes before a page that is complete, wherever that lies."""
    heads = format_.heads
    sums = sums or digests_of(format_, range(format_.layers), page)
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
    header = fixed + struct.pack(f"<{len(sums)}Q", *sums)
    header = header.ljust(ALIGN - _SUM.size, b"\0")
    return header + _SUM.pack(_checksum(header))


def read_header(format_: PageFormat, header: memoryview | bytes) -> tuple[PageKey, Heads, tuple[int, ...]]:
    """What a frame says it is, and the checksum of each group; PageError if it is not of this model."""
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
    if size != run.count * format_.rows * format_.run_bytes or run.total != format_.heads.total:
        raise PageError(f"{size} bytes are not {run.count} heads of {format_.rows * format_.run_bytes} bytes")
    sums = struct.unpack_from(f"<{format_.groups}Q", body, _FIXED.size)
    key = PageKey(name, parent if has_parent else None, sequence, local, parent_hash if has_parent else None)
    return key, run, sums


def sums_of(format_: PageFormat, name: bytes, frame: memoryview) -> Digests:
    """The checksum of each group; PageError unless the frame is of the page of that name for exactly this rank."""
    key, heads, sums = read_header(format_, frame)
    if key.name != name:
        raise PageError("the page of another block")
    if heads != format_.heads:
        raise PageError(f"the page holds {heads}, not {format_.heads}")
    return sums


def check_layers(format_: PageFormat, sums: Sequence[int], layers: range, frame: memoryview) -> None:
    """PageError unless every byte of these layers, which are whole groups, is right."""
    check_digests(format_, sums, layers, digests_of(format_, layers, page_of(format_, frame)))


def check_digests(format_: PageFormat, sums: Sequence[int], layers: range, found: Digests) -> None:
    """PageError unless those found of these layers, which are whole groups, are those that the header names."""
    first = layers.start // format_.group_layers
    for number, digest in enumerate(found, first):
        if digest != sums[number]:
            raise PageError(f"the checksum of group {number} of its layers is wrong")


def check(format_: PageFormat, name: bytes, frame: memoryview) -> None:
    """PageError unless the frame holds the page of that name for exactly this rank's heads, every byte right."""
    sums = sums_of(format_, name, frame)
    check_layers(format_, sums, range(format_.layers), frame)


def assemble(format_: PageFormat, key: PageKey, parts: Sequence[memoryview], frame: memoryview) -> None:
    """Fill a rank's frame from those of ranks with other heads; PageError unless they are right and cover its own."""
    wanted, rows = format_.heads, _rows(format_, frame)
    missing = set(range(wanted.first, wanted.first + wanted.count))
    for part in parts:
        found, run, sums = read_header(format_, part)
        if found.name != key.name:
            raise PageError("the page of another block")
        theirs = msgspec.structs.replace(format_, heads=run)
        if len(part) < ALIGN + theirs.page_bytes:
            raise PageError(f"{len(part)} bytes do not hold a page of {theirs.page_bytes}")
        check_layers(theirs, sums, range(format_.layers), part)
        common = sorted(missing & set(range(run.first, run.first + run.count)))
        rows[:, [head - wanted.first for head in common]] = _rows(theirs, part)[:, [h - run.first for h in common]]
        missing.difference_update(common)
    if missing:
        raise PageError(f"no page holds the heads {sorted(missing)}")
    seal(format_, key, frame)


def digests_of(format_: PageFormat, layers: range, page: memoryview) -> Digests:
    """The checksums of the groups of these layers."""
    layer, step = format_.layer_bytes, format_.group_layers
    starts = range(layers.start, layers.stop, step)
    return tuple(_checksum(page[start * layer : min(start + step, layers.stop) * layer]) for start in starts)


def _rows(format_: PageFormat, frame: memoryview) -> NDArray[np.uint8]:
    """The page as [parts of layers, heads, bytes]; a view."""
    return np.frombuffer(page_of(format_, frame), np.uint8).reshape(format_.rows, format_.heads.count, -1)
