"""Stops the processes of a node in the reverse of their start order, in step with the other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from dynamoc.runtime.agent.record import State, read_status
from dynamoc.runtime.agent.supervisor import Supervisor
from dynamoc.runtime.manifest import Manifest, read_manifest

PEERS_BEGIN_LIMIT_S = 0.5
POLL_S = 0.05


async def stop_in_order(
    supervisors: Sequence[Supervisor],
    lives: Sequence[asyncio.Task[None]],
    hurry: asyncio.Event,
    run_dir: Path,
    node: int,
) -> None:
    """Stop group after group, the last started first; `hurry` ends all waiting. Failures stay in the tasks."""
    tasks = dict(zip((s.spec.name for s in supervisors), lives, strict=True))
    manifest = read_manifest(run_dir / "plan.json")
    hurried = asyncio.create_task(_pass_on(hurry, supervisors))
    ordered = sorted(supervisors, key=lambda s: s.spec.start_order, reverse=True)
    for order, members in groupby(ordered, key=lambda s: s.spec.start_order):
        group = tuple(members)
        await _later_groups_elsewhere(manifest, order, hurry, run_dir, node)
        for supervisor in group:
            supervisor.stop()
        await asyncio.wait({tasks[s.spec.name] for s in group})
    hurried.cancel()


async def _pass_on(hurry: asyncio.Event, supervisors: Sequence[Supervisor]) -> None:
    await hurry.wait()
    for supervisor in supervisors:
        supervisor.hurry()


async def _later_groups_elsewhere(
    manifest: Manifest, order: int, hurry: asyncio.Event, run_dir: Path, node: int
) -> None:
    """While other nodes drain too: wait, no longer than they may take, until what started after `order` is stopped.

    A node that does not drain, or whose status is not in this folder, is not waited for.
    """
    later = [p for p in manifest.processes if p.node != node and p.start_order > order]
    loop = asyncio.get_running_loop()
    begin = loop.time()
    limit = sum({p.start_order: p.drain_timeout_s for p in later}.values()) + 1.0
    while later and loop.time() - begin < limit and not hurry.is_set():
        later = [p for p in later if _is_draining(run_dir, p.node, p.name, loop.time() - begin < PEERS_BEGIN_LIMIT_S)]
        if later:
            await asyncio.sleep(POLL_S)


def _is_draining(run_dir: Path, node: int, name: str, may_begin: bool) -> bool:
    status = read_status(run_dir, node)
    if status is None or status.state.is_over or status.processes[name].state.is_over:
        return False
    return status.state is State.DRAINING or may_begin
