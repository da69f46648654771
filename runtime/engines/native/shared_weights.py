"""Weights that live outside this process: the first worker reads them into shared memory, every later one maps them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dynamoc.runtime import environment
from dynamoc.runtime.engines.native.weights import TensorSource
from dynamoc.runtime.kv.memory_service.layout import TensorPlace
from dynamoc.runtime.kv.memory_service.lock import Mode
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, memory_of
from dynamoc.runtime.kv.memory_service.place import Place, where_is
from dynamoc.runtime.kv.memory_service.session import Session
from dynamoc.runtime.kv.memory_service.tensors import dtype_name, view

WAIT_S = 600.0
"""How long another worker may take to read the weights."""

log = logging.getLogger("dynamoc.engine")
M = TypeVar("M")


class SharedWeights:
    """Holds a session with the owner as long as the model lives. Made in `load`; closed with the runner."""

    def __init__(self, device: torch.device, limit_s: float = WAIT_S) -> None:
        self.device = device
        run_dir = environment.read("DYNAMOC_RUN_DIR")
        if run_dir is None:
            raise ValueError("`weights: shared` needs a run folder, whose key the sharing workers have in common")
        ordinal = None if device.type == "cpu" else device.index or 0
        self._place = Place(Path(run_dir), where_is(ordinal), ordinal)
        self._memory = memory_of(ordinal)
        self._limit_s = limit_s
        self._session: Session | None = None

    def build(self, identity: str, source: Callable[[], TensorSource], build: Callable[[TensorSource], M]) -> M:
        """The model over shared tensors: mapped if `identity` is committed, else read from `source` first.

        MemoryServiceError or WireError, for instance if other weights are in use there.
        """
        mode = self._open(Mode.EITHER)
        if self._holds_other_than(identity):
            log.warning("other weights are shared here: reading mine in their place")
            mode = self._open(Mode.WRITE)
        session = self._session
        assert session is not None
        if mode is Mode.WRITE:
            filling = _Filling(source(), session)
            build(filling)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            session.commit(identity, tuple(filling.placed.values()))
        else:
            log.info("weights are mapped, not read")
        return build(_Mapped(session, self.device))

    def close(self) -> None:
        """End the session; the mapping goes with the last tensor."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _open(self, mode: Mode) -> Mode:
        self.close()
        self._session = self._place.session(self._memory)
        return self._session.open(mode, self._limit_s)

    def _holds_other_than(self, identity: str) -> bool:
        layout = self._session.layout if self._session is not None else None
        return layout is not None and layout.identity != identity


class _Filling:
    """Reads each tensor that is asked for into shared memory, once. None may be in use at the commit."""

    def __init__(self, source: TensorSource, session: Session) -> None:
        self.device = source.device
        self.placed: dict[str, TensorPlace] = {}
        self._source = source
        self._session = session

    def take(self, name: str, dtype: torch.dtype | None) -> Tensor:
        return self._put(_name([name], dtype), lambda: self._source.take(name, dtype))

    def stack(self, names: list[str], dtype: torch.dtype) -> Tensor:
        return self._put(_name(names, dtype), lambda: self._source.stack(names, dtype))

    def _put(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        if name not in self.placed:
            tensor = read()
            place = self._session.place(name, tuple(tensor.shape), dtype_name(tensor), tensor.itemsize)
            self._view(place).copy_(tensor)
            self.placed[name] = place
        return self._view(self.placed[name])

    def _view(self, place: TensorPlace) -> Tensor:
        return view(self._session.mapped[place.allocation], place)


class _Mapped:
    """Every tensor is a view of shared memory."""

    def __init__(self, session: Session, device: torch.device) -> None:
        assert session.layout is not None
        self.device = device
        self._session = session
        self._places = session.layout.by_name()

    def take(self, name: str, dtype: torch.dtype | None) -> Tensor:
        return self._view(_name([name], dtype))

    def stack(self, names: list[str], dtype: torch.dtype) -> Tensor:
        return self._view(_name(names, dtype))

    def _view(self, name: str) -> Tensor:
        if name not in self._places:
            raise MemoryServiceError(f"the shared weights have no {name}")
        place = self._places[name]
        return view(self._session.mapped[place.allocation], place)


def identity_of(folder: Path, dtype: torch.dtype) -> str:
    """Which files were read, and into what: names, sizes and times of change."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    facts = [(path.name, (seen := path.stat()).st_size, seen.st_mtime_ns) for path in files]
    return f"{os.fspath(folder.resolve())} {dtype} {facts}"


def _name(names: list[str], dtype: torch.dtype | None) -> str:
    return f"{'+'.join(names)}:{dtype or 'stored'}"
