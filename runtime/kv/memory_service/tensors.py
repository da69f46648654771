"""Tensors over mapped memory, without a copy: those of a reader share their bytes with every other reader."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dynamoc.runtime.kv.memory_service.host import MappedHost
from dynamoc.runtime.kv.memory_service.layout import TensorPlace
from dynamoc.runtime.kv.memory_service.memory import Mapped


def view(mapped: Mapped, place: TensorPlace) -> Tensor:
    """The tensor at a place that was checked; the mapping lives as long as it. Of a reader's, nobody may write to it:
    the process would end."""
    dtype: torch.dtype = getattr(torch, place.dtype)
    if not place.size:
        return torch.empty(place.shape, dtype=dtype, device="cpu" if mapped.device is None else mapped.device)
    return _bytes(mapped, place.offset, place.size).view(dtype).view(place.shape)


def dtype_name(tensor: Tensor) -> str:
    """As a place spells it."""
    return str(tensor.dtype).removeprefix("torch.")


def _bytes(mapped: Mapped, offset: int, size: int) -> Tensor:
    if isinstance(mapped, MappedHost):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(mapped.data, dtype=torch.uint8, offset=offset, count=size)
    import cupy

    memory = cupy.cuda.UnownedMemory(mapped.address, mapped.size, mapped, mapped.device)
    array = cupy.ndarray(size, cupy.uint8, cupy.cuda.MemoryPointer(memory, offset))
    tensor: Tensor = torch.from_dlpack(array)
    return tensor
