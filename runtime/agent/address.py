"""`python -m dynamoc.runtime.agent.address`: where other nodes of a job reach this one, and which ports are free."""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from dynamoc.runtime.agent.places import free_offsets
from dynamoc.runtime.manifest import ManifestError, read_manifest

SIOCGIFADDR = 0x8915
ANYWHERE = "192.0.2.1"
"""An address of nobody (RFC 5737): the route to it is asked for where there is no peer, and nothing is sent."""
ANY_PORT = 9


class AddressError(Exception):
    """This node has no address that others could use; the message says why."""


def main(argv: Sequence[str]) -> int:
    """Print the address and, where asked, the port offsets that suit this node; 2 if there is no address."""
    parser = argparse.ArgumentParser(prog="dynamoc.runtime.agent.address")
    parser.add_argument("--interface", help="the network interface; that of the route to a peer if left out")
    parser.add_argument("--plan", type=Path, help="the manifest, where the nodes are shared with other runs")
    parser.add_argument("--seed", default="", help="what tells this run from others")
    parser.add_argument("nodes", nargs="*", help="names of the nodes of the plan in order, this one among them")
    options = parser.parse_args(argv)
    try:
        address = usable(of_interface(options.interface) if options.interface else of_route(options.nodes))
        offsets = _offsets(options, address) if options.plan is not None else []
        print(address, *offsets)
    except (AddressError, ManifestError, OSError) as error:
        print(f"{os.uname().nodename}: {error}", file=sys.stderr)
        return 2
    return 0


def _offsets(options: argparse.Namespace, address: str) -> list[int]:
    name = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
    if name not in options.nodes:
        raise AddressError(f"{name} is none of the nodes {' '.join(options.nodes)}")
    return [*free_offsets(read_manifest(options.plan), options.nodes.index(name), address, options.seed)]


def of_interface(name: str) -> str:
    """The IPv4 address of a network interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError as error:
            known = ", ".join(interface for _, interface in socket.if_nameindex())
            raise AddressError(f"interface `{name}` has no address ({error.strerror}); there are {known}") from error
    return socket.inet_ntoa(answer[20:24])


def of_route(nodes: Sequence[str]) -> str:
    """The address from which this node talks to a peer; where it is alone, to anybody, or else that of its name."""
    name = os.uname().nodename
    here = {name, name.partition(".")[0], os.environ.get("SLURMD_NODENAME")}
    peer = next((node for node in nodes if node not in here), None)
    try:
        return _source(peer or ANYWHERE)
    except OSError as error:
        if peer is not None:
            raise AddressError(f"there is no route to {peer}: {error}") from error
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise AddressError(f"there is no default route, and {name} has no address: {error}") from error


def _source(peer: str) -> str:
    """Nothing is sent: connecting a datagram socket only chooses the source address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, ANY_PORT))
        address: str = probe.getsockname()[0]
    return address


def usable(address: str) -> str:
    """The same address; AddressError if other nodes cannot reach it."""
    known = ipaddress.ip_address(address)
    if known.is_loopback or known.is_link_local or known.is_unspecified:
        raise AddressError(f"{address} cannot be reached from other nodes; name an `interface` in the cluster file")
    return address


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
