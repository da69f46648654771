"""Read GGUF files: metadata, and tensors as float32. F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are understood."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
QUANT_BLOCK = 32

STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class GgufError(ValueError):
    """The file is not a GGUF file we can read; the message says why."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a tensor's numbers are stored: records of `dtype`, each holding `elements` numbers."""

    name: str
    elements: int
    dtype: np.dtype[Any]
    decode: Callable[[NDArray[Any]], Floats]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is; `shape` has the slowest dimension first, `offset` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int


def _nibbles(packed: NDArray[Any]) -> Floats:
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def _column(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32)[:, None]


ENCODINGS = {
    0: Encoding("F32", 1, np.dtype("<f4"), lambda raw: raw.astype(np.float32)),
    1: Encoding("F16", 1, np.dtype("<f2"), lambda raw: raw.astype(np.float32)),
    2: Encoding(
        "Q4_0", QUANT_BLOCK, np.dtype([("scale", "<f2"), ("quants", "u1", 16)]),
        lambda raw: (_nibbles(raw["quants"]) - 8) * _column(raw["scale"]),
    ),
    3: Encoding(
        "Q4_1", QUANT_BLOCK, np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quants", "u1", 16)]),
        lambda raw: _nibbles(raw["quants"]) * _column(raw["scale"]) + _column(raw["minimum"]),
    ),
    8: Encoding(
        "Q8_0", QUANT_BLOCK, np.dtype([("scale", "<f2"), ("quants", "i1", 32)]),
        lambda raw: raw["quants"].astype(np.float32) * _column(raw["scale"]),
    ),
    30: Encoding("BF16", 1, np.dtype("<u2"), lambda raw: (raw.astype(np.uint32) << 16).view(np.float32)),
}  # fmt: skip


class GgufFile:
    """An open GGUF file. `metadata` and `tensors` are read at once, the numbers when asked for."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise GgufError(f"{path} is empty") from error
        try:
            self.metadata, self.tensors = _Header(self._map).read()
        except (struct.error, UnicodeDecodeError) as error:
            raise GgufError(f"{path} is truncated or damaged: {error}") from error
        except GgufError as error:
            raise GgufError(f"{path}: {error}") from error

    def tensor(self, name: str) -> Floats:
        """The numbers of one tensor in its shape."""
        info = self.tensors[name]
        numbers = math.prod(info.shape)
        if info.shape and info.shape[-1] % info.encoding.elements:
            raise GgufError(
                f"rows of `{name}` hold {info.shape[-1]} numbers, {info.encoding.name} needs a multiple of 32"
            )
        records = numbers // info.encoding.elements
        if info.offset + records * info.encoding.dtype.itemsize > len(self._map):
            raise GgufError(f"the file ends inside `{name}`")
        raw = np.frombuffer(self._map, info.encoding.dtype, records, info.offset)
        return info.encoding.decode(raw).reshape(info.shape)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Header:
    """Walks the bytes before the tensors; struct.error at a premature end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def read(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        """Everything the header says."""
        if self.data[:4] != MAGIC:
            raise GgufError("not a GGUF file")
        self.at = 4
        version = self.scalar("<I")
        if version not in VERSIONS:
            raise GgufError(f"GGUF version {version}; versions {VERSIONS} are understood")
        tensor_count, metadata_count = self.scalar("<Q"), self.scalar("<Q")
        metadata = {self.string(): self.value(self.scalar("<I")) for _ in range(metadata_count)}
        described = [self.described() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise GgufError(f"alignment {alignment!r} is not a positive number")
        base = -(-self.at // alignment) * alignment
        return metadata, {name: TensorInfo(name, shape, kind, base + at) for name, shape, kind, at in described}

    def scalar(self, form: str) -> Any:
        """One number."""
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        """A length and its UTF-8 bytes."""
        length = self.scalar("<Q")
        if self.at + length > len(self.data):
            raise GgufError("the file ends inside a string")
        text = self.data[self.at : self.at + length].decode()
        self.at += length
        return text

    def value(self, kind: int) -> Any:
        """One metadata value."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item, count = self.scalar("<I"), self.scalar("<Q")
            return [self.value(item) for _ in range(count)]
        if kind not in SCALARS:
            raise GgufError(f"unknown metadata type {kind}")
        return self.scalar(SCALARS[kind])

    def described(self) -> tuple[str, tuple[int, ...], Encoding, int]:
        """Name, shape, encoding and offset of one tensor."""
        name = self.string()
        shape = tuple(self.scalar("<Q") for _ in range(self.scalar("<I")))[::-1]
        kind, offset = self.scalar("<I"), self.scalar("<Q")
        if kind not in ENCODINGS:
            known = ", ".join(encoding.name for encoding in ENCODINGS.values())
            raise GgufError(f"tensor `{name}` has encoding {kind}; understood are {known}")
        return name, shape, ENCODINGS[kind], offset
