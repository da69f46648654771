"""`python -m dynamoc.runtime rank`: one task of a step that spans a worker's nodes; it becomes a rank of its engine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from dynamoc.runtime.agent.life import GpuError, Home
from dynamoc.runtime.agent.places import endpoints
from dynamoc.runtime.launch.command import Command, Completion, LaunchError
from dynamoc.runtime.launch.ranks import announce
from dynamoc.runtime.manifest import Launch, Manifest, ManifestError, ProcessSpec, read_manifest
from dynamoc.runtime.ports import shifted

OF_THE_STEP = ("MPI", "OMPI_", "PMI", "SLURM")
"""Beginnings of variables by which ranks find each other."""


def main(argv: Sequence[str]) -> int:
    """Does not return once the engine is started; 2 if it cannot be."""
    parser = argparse.ArgumentParser(prog="dynamoc.runtime rank")
    parser.add_argument("--run-dir", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--worker", required=True, help="name of the worker's leading process")
    parser.add_argument("--hosts", required=True, help="address of every node of the plan, in order, by commas")
    parser.add_argument("--port-offset", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        manifest = shifted(read_manifest(options.run_dir / "plan.json"), options.port_offset)
        spec, launch, rank = place_of(manifest, options.worker, os.environ)
        found = endpoints(manifest, options.hosts.split(","))
        command = Completion(manifest, spec, found, options.run_dir).command(launch)
        home = Home(options.run_dir, spec.node, os.environ, options.port_offset)
        environment = home.environment(spec, 0) | {"DYNAMOC_RANK": str(rank)}
        announce(options.run_dir, rank, spec.name)
    except (OSError, KeyError, IndexError, ManifestError, LaunchError, GpuError) as error:
        print(f"dynamoc rank: {error}", file=sys.stderr)
        return 2
    return _become(command, environment)


def _become(command: Command, environment: dict[str, str]) -> NoReturn:
    """A task has no line to an agent: the process that watches it has."""
    environment.pop("DYNAMOC_NOTIFY_FD")
    kept = {name: value for name, value in os.environ.items() if name.startswith(OF_THE_STEP)}
    os.execve(command.argv[0], command.argv, {**kept, **environment, **command.env})  # noqa: S606  # words, no shell


def place_of(manifest: Manifest, worker: str, step: Mapping[str, str]) -> tuple[ProcessSpec, Launch, int]:
    """The process whose rank this task is, the words for it, and the rank. The step says which of its tasks we are."""
    leader = manifest.process(worker)
    parts = sorted(
        (p for p in manifest.processes if (p.component, p.replica) == (leader.component, leader.replica)),
        key=lambda part: part.part,
    )
    rank, node, local = (int(step[name]) for name in ("SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"))
    spec = parts[node]
    if spec.ranks[local] != rank:
        raise LaunchError(f"the step made task {local} of node {node} rank {rank}, the plan says {spec.ranks[local]}")
    launch = parts[min(rank, 1)].launch
    if launch is None or not launch.mpi:
        raise LaunchError(f"`{worker}` is no MPI program")
    return spec, launch, rank
