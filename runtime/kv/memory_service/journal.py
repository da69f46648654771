"""What the blocks of a kept pool hold, in memory beside it that outlives the worker too: one record a block.

A worker may end between any two stores. So a record is erased before its block is written again, and written, its state
last, once the block is whole; one that is half written fails its own checksum. A block is *lent* from before a peer may
write to it until nobody does any more: after an end without a word, it stays out of use until those who were admitted
as writers have stopped. Whoever cannot be recorded spoils the journal: the next life then begins with another pool.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import xxhash

from dynamoc.runtime.kv.hashing import TOKEN_BYTES

VERSION = 1
HASH_BYTES = 16
WRITERS = 63
_FREE, _LENT, _STORED = 0, 0x544E454C, 0x524F5453
_SPOILT = 0x4C4F5053
_WRITER_BYTES = 256
_HEADER_BYTES = (1 + WRITERS) * _WRITER_BYTES
"""The journal's own state, then a slot for each writer."""
_WORD = struct.Struct("<I")
_CHECK = struct.Struct("<Q")
_LENGTH = struct.Struct("<H")
_HEAD = struct.Struct(f"<II{HASH_BYTES}s{HASH_BYTES}s")
"""State, whether there is a parent, its name, the digest of the block's bytes. The tokens follow, then a checksum."""
_NO_PARENT = bytes(HASH_BYTES)
_NOBODY = bytes(_WRITER_BYTES)

_checksum = xxhash.xxh3_64_intdigest


class Record(msgspec.Struct, frozen=True):
    """A whole block: the KV of these packed tokens after the block called `parent`. `digest` is of its bytes."""

    parent: bytes | None
    tokens: bytes
    digest: bytes


@dataclass(slots=True)
class Contents:
    """What an earlier life left behind. `held_back` may still be written to; a `torn` record counts among them."""

    records: dict[int, Record] = field(default_factory=dict)
    held_back: set[int] = field(default_factory=set)
    torn: int = 0
    writers: tuple[bytes, ...] = ()


class JournalError(ValueError):
    """Nothing in the journal can be relied on."""


class Journal:
    """Over `size` bytes that were zeros once. Records are one thread's, writers another's."""

    def __init__(self, data: memoryview, blocks: int, block_size: int) -> None:
        self._data = data
        self._blocks = blocks
        self._token_bytes = TOKEN_BYTES * block_size
        self._stride = _stride(block_size)
        self._body = self._stride - _CHECK.size

    @staticmethod
    def size(blocks: int, block_size: int) -> int:
        """Bytes of the journal of such a pool."""
        return _HEADER_BYTES + blocks * _stride(block_size)

    def store(self, block: int, record: Record) -> None:
        """The block is whole and is not written to again until it is erased."""
        parent = record.parent
        head = _HEAD.pack(_STORED, parent is not None, parent or _NO_PARENT, record.digest)
        body = (head + record.tokens).ljust(self._body, b"\0")
        rest = body[_WORD.size :] + _CHECK.pack(_checksum(body, block))
        self._write(self._start(block) + _WORD.size, rest)
        self._write(self._start(block), body[: _WORD.size])

    def erase(self, blocks: Sequence[int]) -> None:
        """These blocks hold nothing, and nobody but the worker itself writes to them."""
        self._mark(blocks, _FREE)

    def lend(self, blocks: Sequence[int]) -> None:
        """Admitted writers may write to these from now on."""
        self._mark(blocks, _LENT)

    def admit(self, writer: bytes) -> None:
        """A process, as it encodes itself, may be asked to write to blocks that are lent."""
        try:
            known = self._writers()
        except JournalError:
            known = []
        if writer in known:
            return
        if b"" not in known or len(writer) > _WRITER_BYTES - _LENGTH.size - _CHECK.size:
            self._write(0, _WORD.pack(_SPOILT))
            return
        slot = known.index(b"")
        body = _LENGTH.pack(len(writer)) + writer
        self._write((1 + slot) * _WRITER_BYTES, body + _CHECK.pack(_checksum(body)))

    def dismiss(self, writer: bytes) -> None:
        """It writes nothing any more, and is asked for nothing before it is admitted again. JournalError."""
        known = self._writers()
        if writer in known:
            self._write((1 + known.index(writer)) * _WRITER_BYTES, _NOBODY)

    def read(self) -> Contents:
        """What there is; changes nothing. JournalError if it is spoilt, or does not say who may be writing."""
        if _WORD.unpack_from(self._data, 0) != (_FREE,):
            raise JournalError("it has lost count of those who may write to the pool")
        contents = Contents(writers=tuple(writer for writer in self._writers() if writer))
        rows = np.frombuffer(self._data, np.uint8)[_HEADER_BYTES : self._start(self._blocks)]
        states = rows.reshape(self._blocks, self._stride)[:, : _WORD.size].copy().view("<u4")[:, 0]
        for block in np.flatnonzero(states != _FREE).tolist():
            record = self._record(block) if states[block] == _STORED else None
            if record is not None:
                contents.records[block] = record
                continue
            contents.held_back.add(block)
            contents.torn += int(states[block] != _LENT)
        return contents

    def _record(self, block: int) -> Record | None:
        """The record of a stored block; None if it is not whole."""
        start = self._start(block)
        body = bytes(self._data[start : start + self._body])
        if _CHECK.unpack_from(self._data, start + self._body) != (_checksum(body, block),):
            return None
        _, has_parent, parent, digest = _HEAD.unpack_from(body)
        return Record(parent if has_parent else None, body[_HEAD.size : _HEAD.size + self._token_bytes], digest)

    def _writers(self) -> list[bytes]:
        """By slot; empty where there is none. JournalError."""
        found = []
        for start in range(_WRITER_BYTES, _HEADER_BYTES, _WRITER_BYTES):
            slot = bytes(self._data[start : start + _WRITER_BYTES])
            end = _LENGTH.size + _LENGTH.unpack_from(slot)[0]
            if end > _WRITER_BYTES - _CHECK.size or (
                slot != _NOBODY and _CHECK.unpack_from(slot, end) != (_checksum(slot[:end]),)
            ):
                raise JournalError("a writer's name is half written, or damaged")
            found.append(slot[_LENGTH.size : end])
        return found

    def _mark(self, blocks: Sequence[int], state: int) -> None:
        for block in blocks:
            self._write(self._start(block), _WORD.pack(state))

    def _write(self, start: int, data: bytes) -> None:
        self._data[start : start + len(data)] = data

    def _start(self, block: int) -> int:
        return _HEADER_BYTES + block * self._stride


def _stride(block_size: int) -> int:
    """Bytes of a record, a multiple of 8 so that no state lies across two words."""
    return -(-(_HEAD.size + TOKEN_BYTES * block_size) // 8) * 8 + _CHECK.size
