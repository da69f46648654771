"""Ports of a run whose nodes are shared with other runs: those of the plan, turned within the range of the site."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from dynamoc.runtime.manifest import (
    FileRef,
    HostRef,
    Joined,
    Launch,
    Manifest,
    Piece,
    PortRange,
    PortRef,
    ProcessSpec,
    Role,
    Word,
)

CANDIDATES = 32


def candidates(manifest: Manifest, seed: str) -> Iterator[int]:
    """Offsets to try in turn; runs of other seeds try others. None gives two processes of a node one port."""
    count = manifest.port_range.count
    for attempt in range(CANDIDATES):
        digest = hashlib.blake2b(f"{seed}:{attempt}".encode(), digest_size=8).digest()
        offset = int.from_bytes(digest) % count
        if _is_apart(shifted(manifest, offset)):
            yield offset


def shifted(manifest: Manifest, offset: int) -> Manifest:
    """The same plan `offset` ports further, around the end of the range. A frontend stays where its user put it."""
    if not offset:
        return manifest
    turn = _Turn(manifest.port_range, offset)
    return msgspec.structs.replace(manifest, processes=tuple(turn.process(spec) for spec in manifest.processes))


def _is_apart(manifest: Manifest) -> bool:
    places = [(spec.node, port) for spec in manifest.processes for port in spec.ports.values()]
    return len(set(places)) == len(places)


class _Turn:
    def __init__(self, ports: PortRange, offset: int) -> None:
        self._ports = ports
        self._offset = offset

    def process(self, spec: ProcessSpec) -> ProcessSpec:
        if spec.role is Role.FRONTEND:
            return spec
        ports = {purpose: self._port(port) for purpose, port in spec.ports.items()}
        launch = None if spec.launch is None else self._launch(spec.launch)
        return msgspec.structs.replace(spec, ports=ports, launch=launch)

    def _launch(self, launch: Launch) -> Launch:
        return msgspec.structs.replace(
            launch,
            words=tuple(map(self._word, launch.words)),
            env={name: self._word(word) for name, word in launch.env.items()},
            serves=None if launch.serves is None else PortRef(port=self._port(launch.serves.port)),
            events=None if launch.events is None else PortRef(port=self._port(launch.events.port)),
        )

    def _word(self, word: Word) -> Word:
        if isinstance(word, Joined):
            return Joined(pieces=tuple(map(self._piece, word.pieces)))
        return word if isinstance(word, FileRef) else self._piece(word)

    def _piece(self, piece: Piece) -> Piece:
        if isinstance(piece, HostRef | PortRef) and piece.port is not None:
            return msgspec.structs.replace(piece, port=self._port(piece.port))
        return piece

    def _port(self, port: int) -> int:
        first, count = self._ports.first, self._ports.count
        return first + (port - first + self._offset) % count
