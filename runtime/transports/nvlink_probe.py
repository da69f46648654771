"""Whether this GPU reaches a peer's pool over NVLink, found out in a child process: a driver may hang on the way.

The child maps the pool, compares its nonce, and has the real kernel store a few random bytes behind the blocks and
read them back.
"""

from __future__ import annotations

import secrets
import sys

import msgspec
import numpy as np

from dynamoc.runtime.kv.cuda.copier import Copier, Runs
from dynamoc.runtime.kv.cuda.device import DeviceError, bus_address, on_device, require_devices, runtime
from dynamoc.runtime.kv.cuda.links import joined_by_nvlink
from dynamoc.runtime.kv.cuda.pool import PROOF_BYTES
from dynamoc.runtime.kv.transfer.sums import sums_of
from dynamoc.runtime.transports.nvlink_peer import Offer, map_offered
from dynamoc.runtime.transports.probe_child import ask_child
from dynamoc.runtime.transports.protocol import TransportError

SLOT_BYTES = 64
"""Slot 0 of the room behind the blocks holds the nonce; a probe takes one of the others."""
_TO_DEVICE = 1


class _Question(msgspec.Struct, frozen=True):
    offer: Offer
    device: int
    limit_s: float


async def probe(offer: Offer, device: int, limit_s: float) -> None:
    """TransportError if blocks would not get there, or if that is not known within `limit_s`."""
    question = msgspec.json.encode(_Question(offer, device, limit_s))
    await ask_child(f"NVLink to {offer.bus}", __name__, (), question, limit_s)


def why_not(offer: Offer, device: int, limit_s: float) -> str:
    """Why blocks would not get there; empty if they would."""
    try:
        require_devices()
        mine = bus_address(device)
        if mine != offer.bus and joined_by_nvlink(mine, offer.bus) is False:
            return f"GPU {mine} and GPU {offer.bus} are not joined by NVLink"
        return "" if _round_trip(offer, device, limit_s) else "what was written is not what is there"
    except (DeviceError, TransportError, TimeoutError) as error:
        return str(error)


def _round_trip(offer: Offer, device: int, limit_s: float) -> bool:
    """Store a slot of random bytes by the copy kernel, sum them where they are."""
    sent = np.frombuffer(secrets.token_bytes(SLOT_BYTES), np.uint8)
    place = 1 + secrets.randbelow(PROOF_BYTES // SLOT_BYTES - 1)
    peer, copier = map_offered(offer, device), Copier(device, slots=2, slot_runs=1)
    with on_device(device, "try the way to a peer"):
        mine = runtime.malloc(SLOT_BYTES)
        runtime.memcpy(mine, sent.ctypes.data, SLOT_BYTES, _TO_DEVICE)
    there = Runs(peer.address + offer.data_bytes, SLOT_BYTES, np.array([place], np.uint64))
    copier.copy(Runs(mine, SLOT_BYTES, np.zeros(1, np.uint64)), there, SLOT_BYTES).wait(limit_s)
    found = copier.sum(there, SLOT_BYTES)
    found.wait(limit_s)
    assert found.sums is not None
    return tuple(found.sums[0].tolist()) == sums_of(sent)


def main() -> None:
    """The child: a question on standard input; on standard output nothing, or why not."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=_Question)
    print(why_not(question.offer, question.device, question.limit_s), end="", flush=True)


if __name__ == "__main__":
    main()
