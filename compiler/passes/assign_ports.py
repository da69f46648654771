"""Every process listens on ports that nobody else on its node has.

A port follows from the name of its process, not from how many others there are, so that a change elsewhere in
the spec does not move it. Only when two names meet on a node does the later one give way.
"""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from dynamoc.compiler.cluster import LAST_PORT
from dynamoc.compiler.diagnostics import Path, Put, Remedy, Reporter
from dynamoc.compiler.dialect import dialect
from dynamoc.compiler.graph import Component
from dynamoc.compiler.plan import Plan, Process
from dynamoc.runtime.manifest import Role

FIRST_UNPRIVILEGED_PORT = 1024
STRIDE = 4
"""A process finds its ports beside each other."""

LISTENING_TRANSPORTS = frozenset({"tcp", "nixl"})
"""Transports for which the receiver of KV listens on a port of its own."""


def assign_ports(plan: Plan, report: Reporter) -> Plan:
    """D310 two frontends on one port, D311 a privileged one (warning), D312 no port left."""
    taken: dict[tuple[int, int], Process] = {}
    fixed = {
        p.name: _frontend_port(plan, p, taken, report) for p in plan.processes if p.component.role is Role.FRONTEND
    }
    ports = {name: {"http": port} for name, port in fixed.items()}
    for process in plan.processes:
        if process.name not in ports:
            chosen = _choose(plan, process, taken)
            if chosen is None:
                _report_exhausted(plan, process, report)
                return plan
            ports[process.name] = chosen
    return replace(plan, processes=tuple(replace(p, ports=ports[p.name]) for p in plan.processes))


def _frontend_port(plan: Plan, process: Process, taken: dict[tuple[int, int], Process], report: Reporter) -> int:
    component = process.component
    assert component.port is not None
    port = component.port + process.replica
    path: Path = (*component.at, "port")
    other = taken.setdefault((process.node, port), process)
    if port > LAST_PORT:
        report.error(
            "D312",
            f"there is no port {port} for `{process.name}`",
            (path, ""),
            notes=[f"port + replica = {component.port} + {process.replica} = {port} > {LAST_PORT}"],
            remedies=[Remedy((Put(path, LAST_PORT - component.replicas + 1),))],
        )
    elif other is not process:
        report.error(
            "D310",
            f"`{process.name}` and `{other.name}` listen on port {port} of the same node",
            (path, f"`{process.name}`: {component.port} + {process.replica}"),
            ((*other.component.at, "port"), f"`{other.name}`: {other.component.port} + {other.replica}"),
            remedies=_free_port(plan, component),
        )
    elif port < FIRST_UNPRIVILEGED_PORT and process.replica == 0:
        report.warning("D311", f"port {port} of `{process.name}` is privileged", (path, "only root may listen there"))
    return port


def _free_port(plan: Plan, component: Component) -> list[Remedy]:
    """Above all ports of the other frontends."""
    others = [c for c in plan.graph.of_role(Role.FRONTEND) if c is not component]
    first = max((c.port or 0) + c.replicas for c in others)
    possible = first + component.replicas - 1 <= LAST_PORT
    return [Remedy((Put((*component.at, "port"), first),))] if possible else []


def _choose(plan: Plan, process: Process, taken: dict[tuple[int, int], Process]) -> dict[str, int] | None:
    """The ports that follow from the name; from there upwards, and around, where they are taken."""
    base, span = plan.cluster.port_range
    digest = hashlib.blake2b(process.name.encode(), digest_size=8).digest()
    offset = int.from_bytes(digest) // STRIDE * STRIDE % span
    candidates = (base + (offset + step) % span for step in range(span))
    ports = {}
    for purpose in _purposes(plan, process):
        port = next((p for p in candidates if (process.node, p) not in taken), None)
        if port is None:
            return None
        taken[process.node, port] = process
        ports[purpose] = port
    return ports


def _purposes(plan: Plan, process: Process) -> tuple[str, ...]:
    """What a process other than a frontend listens for."""
    options = process.component.worker
    if options is not None and dialect(options.engine).capabilities.external:
        nodes = sum(p.component is process.component and p.replica == process.replica for p in plan.processes)
        return dialect(options.engine).ports(process.component.role, process.part == 0, nodes)
    receives = process.component.role is Role.DECODE and process.transport in LISTENING_TRANSPORTS
    return ("plane", "metrics", "kv") if receives else ("plane", "metrics")


def _report_exhausted(plan: Plan, process: Process, report: Reporter) -> None:
    base, span = plan.cluster.port_range
    report.error(
        "D312",
        f"no port is left for `{process.name}` on its node",
        (process.component.at, ""),
        notes=[f"cluster `{plan.cluster.name}` gives ports {base} to {base + span - 1}"],
        helps=["lower `port_base` of the cluster"],
        at_key=True,
    )
