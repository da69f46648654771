"""Where the processes of a run are reached, and whether this node's ports are free."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from dynamoc.runtime.agent.record import write_atomically
from dynamoc.runtime.manifest import Manifest, Role
from dynamoc.runtime.ports import candidates, shifted
from dynamoc.runtime.process import Endpoint

LISTEN = "0A"


class PortTakenError(OSError):
    """A port of the plan cannot be bound on this node; the message names port, process and holder."""


def default_hosts(nodes: int) -> tuple[str, ...]:
    """One loopback address per node: nodes of a local run may use the same ports."""
    return tuple(f"127.0.0.{1 + node}" for node in range(nodes))


def endpoints(manifest: Manifest, hosts: Sequence[str]) -> dict[str, Endpoint]:
    """Every process of the plan by name; the same on every node."""
    return {spec.name: Endpoint(hosts[spec.node], spec.ports) for spec in manifest.processes}


def write_endpoints(run_dir: Path, manifest: Manifest, hosts: Sequence[str]) -> None:
    """Write `endpoints.json`; every agent writes the same bytes."""
    text = msgspec.json.encode(endpoints(manifest, hosts), order="sorted")
    write_atomically(run_dir / "endpoints.json", msgspec.json.format(text, indent=2) + b"\n")


def check_ports(manifest: Manifest, node: int, host: str) -> None:
    """Bind and listen on every port of the node, once; PortTakenError lists all that fail."""
    problems = []
    for spec in manifest.on_node(node):
        for purpose, port in spec.ports.items():
            error = _cannot_bind(host, port)
            if error is not None:
                reason = _holder(port) or (error.strerror or str(error)).lower()
                problems.append(f"port {port} (`{purpose}` of `{spec.name}`) on {host} cannot be bound: {reason}")
    if problems:
        raise PortTakenError("\n".join(problems))


def free_offsets(manifest: Manifest, node: int, host: str, seed: str) -> Iterator[int]:
    """Offsets at which every port of the node that is the plan's to choose can be bound now."""
    for offset in candidates(manifest, seed):
        specs = [spec for spec in shifted(manifest, offset).on_node(node) if spec.role is not Role.FRONTEND]
        if not any(_cannot_bind(host, port) for spec in specs for port in spec.ports.values()):
            yield offset


def _cannot_bind(host: str, port: int) -> OSError | None:
    try:
        # As servers do it: a connection in TIME_WAIT is no obstacle, a listener is.
        socket.create_server((host, port), reuse_port=False).close()
    except OSError as error:
        return error
    return None


def _holder(port: int) -> str | None:
    """Who listens on the port, where this user may know."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                return f"`{(process / 'comm').read_text().strip()}` (pid {process.name}) listens on it"
        except OSError:  # another user's, or just ended: not ours to know
            continue
    return None
