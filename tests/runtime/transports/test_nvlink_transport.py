"""What nvlink says where it cannot work: nothing hangs, nothing is guessed."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from pool_process import KEY, layout_of, missing

from dynamoc.runtime.kv.layout import all_heads
from dynamoc.runtime.kv.pool import HostPool
from dynamoc.runtime.transports.nvlink import NvlinkTransport
from dynamoc.runtime.transports.nvlink_peer import Offer
from dynamoc.runtime.transports.nvlink_probe import probe
from dynamoc.runtime.transports.process import this_process
from dynamoc.runtime.transports.protocol import TransportError

LAYOUT = layout_of(4096)
OFFER = Offer(this_process(), bytes(64), "0000:00:00.0", bytes(16), 4, LAYOUT, all_heads(LAYOUT))


def test_a_host_pool_is_refused() -> None:
    transport, pool = NvlinkTransport(KEY), HostPool(layout_of(4096), 4)

    with pytest.raises(TransportError, match="this pool is memory of the host"):
        transport.register(pool)
    with pytest.raises(TransportError, match="no pool is registered"):
        transport.metadata()
    asyncio.run(transport.close())
    pool.close()


@pytest.mark.skipif(not missing("nvlink"), reason="there is a GPU")
def test_a_probe_says_what_is_missing() -> None:
    with pytest.raises(TransportError, match=r"NVLink to 0000:00:00.0: .*(needs cupy|sees no GPU|count devices)"):
        asyncio.run(probe(OFFER, 0, 60))


def test_a_probe_that_does_not_answer_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"no answer from the probe within 0.01 s"):
        asyncio.run(probe(OFFER, 0, 0.01))
    assert time.monotonic() - started < 5


def test_an_offer_survives_the_plane() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(OFFER), type=Offer) == OFFER
    assert OFFER.data_bytes == 4 * 4096
