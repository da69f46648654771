"""Transports are known by name, and by nothing else."""

from __future__ import annotations

import pytest

from dynamoc.runtime.transports.protocol import TransportError
from dynamoc.runtime.transports.registry import TRANSPORTS, make_transport


@pytest.mark.parametrize("name", sorted(TRANSPORTS))
def test_a_transport_is_called_what_the_plan_calls_it(name: str) -> None:
    assert make_transport(name, b"key").name == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TransportError, match="unknown transport `rdma`; known: shm, nvlink, nixl, tcp"):
        make_transport("rdma", b"key")
