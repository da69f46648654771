"""A process that uses shared memory: one word in, one line of JSON out, until it is killed."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynamoc.runtime.kv.memory_service.host import MappedHost
from dynamoc.runtime.kv.memory_service.layout import TensorPlace
from dynamoc.runtime.kv.memory_service.lock import Mode
from dynamoc.runtime.kv.memory_service.memory import MemoryServiceError, memory_of
from dynamoc.runtime.kv.memory_service.session import Session
from dynamoc.runtime.kv.memory_service.wire import WireError

KEY = b"k" * 32
SHAPE = (64, 1024)


def content(index: int) -> NDArray[np.float32]:
    return np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE) + np.float32(index)


def view(session: Session, place: TensorPlace) -> NDArray[np.float32]:
    """The bytes themselves, writable or not: what a kernel would see."""
    mapped = session.mapped[place.allocation]
    assert isinstance(mapped, MappedHost)
    memory = (ctypes.c_uint8 * place.size).from_address(mapped.address + place.offset)
    return np.frombuffer(memory, np.float32).reshape(place.shape)


def main(path: str) -> None:
    session = Session(Path(path), KEY, memory_of(None))
    say({"opened": True})
    placed = []
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            if word == "open":
                say({"mode": session.open(Mode(rest[0]), float(rest[1]))})
            elif word == "fill":
                for index in range(int(rest[0])):
                    placed.append(session.place(f"tensor {index}", SHAPE, "float32", 4))
                    view(session, placed[-1])[:] = content(index)
                say({"placed": len(placed)})
            elif word == "commit":
                session.commit(rest[0], tuple(placed))
                say({"digest": session.layout.digest()})
            elif word == "read":
                tensors = session.layout.by_name().values()
                wrong = [
                    place.name
                    for place in tensors
                    if not np.array_equal(view(session, place), content(int(place.name.split()[1])))
                ]
                say({"wrong": wrong, "tensors": len(session.layout.tensors), "digest": session.layout.digest()})
            elif word == "write":
                place = session.layout.tensors[0]
                view(session, place)[:] = 7
                say({"written": True})
        except (MemoryServiceError, WireError) as error:
            say({"error": str(error)})


def say(words: dict[str, object]) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
