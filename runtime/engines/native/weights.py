"""Read a folder of safetensors, after checking that it holds what the model needs and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Shape = tuple[int, ...]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F32", "F16", "BF16"}
SHOWN = 8
CPU = torch.device("cpu")


class WeightsError(ValueError):
    """The weights do not fit the configuration; the message lists how."""


class _Slice(Protocol):
    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


class _File(Protocol):
    """What we use of safetensors' untyped `safe_open`."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def get_slice(self, name: str) -> _Slice: ...


class TensorSource(Protocol):
    """Where a model's tensors come from."""

    device: torch.device

    def take(self, name: str, dtype: torch.dtype | None) -> Tensor:
        """One tensor on the device, converted to `dtype` or as it is stored."""
        ...

    def stack(self, names: list[str], dtype: torch.dtype) -> Tensor:
        """Several tensors as one, row after row."""
        ...


class Weights:
    """The tensors of a folder by name, read when asked for."""

    def __init__(
        self,
        folder: Path,
        expected: Mapping[str, Shape],
        optional: frozenset[str] = frozenset(),
        device: torch.device = CPU,
    ) -> None:
        self.device = device
        self._where: dict[str, _File] = {}
        for path in _files(folder):
            file = _open(path)
            self._where.update(dict.fromkeys(file.keys(), file))
        _check(folder, expected, optional, self._where)

    def take(self, name: str, dtype: torch.dtype | None) -> Tensor:
        """One tensor on the device, converted to `dtype` or as it is stored."""
        tensor = self._where[name].get_tensor(name).to(self.device)
        return tensor if dtype is None else tensor.to(dtype)

    def stack(self, names: list[str], dtype: torch.dtype) -> Tensor:
        """Several tensors as one, row after row."""
        return torch.cat([self.take(name, dtype) for name in names])


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        raise WeightsError(f"{folder} holds neither {SINGLE} nor {INDEX}")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{folder / INDEX} is not an index of safetensors files: {error}") from error
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise WeightsError(f"{folder} lacks {_listed(absent)}, which {INDEX} names")
    return [folder / name for name in names]


def _open(path: Path) -> _File:
    try:
        file: _File = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}") from error
    return file


def _check(folder: Path, expected: Mapping[str, Shape], optional: frozenset[str], found: Mapping[str, _File]) -> None:
    problems = []
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys() - optional)
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    for name in sorted(expected.keys() & found.keys()):
        facts = found[name].get_slice(name)
        if tuple(facts.get_shape()) != expected[name]:
            problems.append(f"{name} is {tuple(facts.get_shape())}, the configuration says {expected[name]}")
        elif facts.get_dtype() not in FLOATS:
            problems.append(f"{name} is {facts.get_dtype()}; only {', '.join(sorted(FLOATS))} are supported")
    if problems:
        raise WeightsError(f"weights in {folder} do not fit: {'; '.join(problems[:SHOWN])}" + _more(len(problems)))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + _more(len(names))


def _more(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""
