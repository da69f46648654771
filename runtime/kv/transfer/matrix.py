"""Between which places blocks can go, by what, and why not between others. What is refused here, the compiler refuses.

G1 is memory of the host (a CPU worker's pool) or of a GPU; `peer` is G1 of another worker. Copies between tiers belong
to one worker; between workers only G1 is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Memory(StrEnum):
    """Where blocks are, as seen by one worker."""

    SYSTEM = "G1 of a CPU worker"
    DEVICE = "G1 of a GPU worker"
    PINNED = "G2"
    DISK = "G3"
    OBJECT = "G4"
    PEER_SYSTEM = "a peer's G1 in host memory"
    PEER_DEVICE = "a peer's G1 on a GPU"


class Moves(NamedTuple):
    """The ways that exist, as metrics name them."""

    ways: tuple[str, ...]


class Refused(NamedTuple):
    """Why blocks do not go this way."""

    reason: str


_S, _D, _P, _K, _O, _PS, _PD = Memory
_OWN = Refused("a worker has one G1; within it blocks are named anew, not copied")
_TWO_G1 = Refused("a worker's G1 is either host memory or of a GPU")
_ABOVE = Refused("pages come up to G1, which computes; what passes G2 on the way stays there")
_BESIDE = Refused("every store gets pages from G1 or G2, where they still are when it is offered them")
_WITHIN = Refused("a tier keeps a page in one place")
_PUSHED = Refused("blocks are pushed by the worker that has them; a peer's are asked for, never read")
_NOT_TIERS = Refused("between workers only G1 is written: a peer keeps its own tiers, or shares a store")
_MIXED = Refused("one transport joins pools of one kind of memory")
_THIRD = Refused("a worker moves no blocks between two others")

MATRIX: Mapping[tuple[Memory, Memory], Moves | Refused] = {
    **{(g1, g1): _OWN for g1 in (_S, _D)},
    (_S, _D): _TWO_G1,
    (_D, _S): _TWO_G1,
    **{(g1, _P): Moves(("copy",)) for g1 in (_S, _D)},
    **{(_P, g1): Moves(("copy",)) for g1 in (_S, _D)},
    (_S, _K): Moves(("file", "bounce+file")),
    (_D, _K): Moves(("bounce+file",)),
    **{(_K, g1): Moves(("file", "bounce+file")) for g1 in (_S, _D)},
    (_S, _O): Moves(("object", "bounce+object")),
    (_D, _O): Moves(("bounce+object",)),
    **{(_O, g1): Moves(("object", "bounce+object")) for g1 in (_S, _D)},
    (_P, _P): _WITHIN,
    (_P, _K): Moves(("file",)),
    (_P, _O): Moves(("object",)),
    (_K, _P): _ABOVE,
    (_O, _P): _ABOVE,
    (_K, _K): _WITHIN,
    (_O, _O): _WITHIN,
    (_K, _O): _BESIDE,
    (_O, _K): _BESIDE,
    (_S, _PS): Moves(("shm", "tcp", "nixl")),
    (_D, _PD): Moves(("nvlink", "nixl")),
    (_S, _PD): _MIXED,
    (_D, _PS): _MIXED,
    **{(tier, peer): _NOT_TIERS for tier in (_P, _K, _O) for peer in (_PS, _PD)},
    **{(peer, own): _PUSHED for peer in (_PS, _PD) for own in (_S, _D, _P, _K, _O)},
    **{(one, other): _THIRD for one in (_PS, _PD) for other in (_PS, _PD)},
}
