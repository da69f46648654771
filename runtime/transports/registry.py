"""Transports by the name a plan declares."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from dynamoc.runtime.transports.protocol import Transport, TransportError

TRANSPORTS: Mapping[str, str] = {
    "shm": "dynamoc.runtime.transports.shm:ShmTransport",
    "nvlink": "dynamoc.runtime.transports.nvlink:NvlinkTransport",
    "nixl": "dynamoc.runtime.transports.nixl:NixlTransport",
    "tcp": "dynamoc.runtime.transports.tcp:TcpTransport",
}


def make_transport(name: str, key: bytes) -> Transport:
    """The transport called `name`; `key` is the run's, for those that open connections of their own."""
    if name not in TRANSPORTS:
        raise TransportError(f"unknown transport `{name}`; known: {', '.join(TRANSPORTS)}")
    module, _, attribute = TRANSPORTS[name].partition(":")
    made: Transport = getattr(importlib.import_module(module), attribute)(key)
    return made
