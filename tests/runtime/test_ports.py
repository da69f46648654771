"""Ports of runs that share nodes: turned together, within the range, the user's own left alone."""

from __future__ import annotations

import contextlib
import socket

import pytest

from dynamoc.runtime.agent.life import GpuError, allotted_gpus, visible_gpus
from dynamoc.runtime.agent.places import free_offsets
from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    HostRef,
    Joined,
    Launch,
    Manifest,
    ModelRef,
    PortRange,
    PortRef,
    ProcessSpec,
    Role,
)
from dynamoc.runtime.ports import candidates, shifted

RANGE = PortRange(first=21000, count=100)


def process(name: str, role: Role, node: int = 0, launch: Launch | None = None, **ports: int) -> ProcessSpec:
    return ProcessSpec(
        name=name, component=name, role=role, replica=0, node=node, argv=(), ports=ports, launch=launch, gpus=(0, 2)
    )


def manifest(*processes: ProcessSpec, ports: PortRange = RANGE) -> Manifest:
    model = ModelRef(ref="a/b", served_name="b")
    return Manifest(
        version=MANIFEST_VERSION, name="m", plan_hash="", model=model, nodes=2, processes=processes, port_range=ports
    )


def test_every_port_of_the_plan_moves_alike_and_a_frontend_stays() -> None:
    words = ("--port", PortRef(port=21095), HostRef(node=0, port=21090), HostRef(node=1), "21095")
    joined = Joined(pieces=("tcp://127.0.0.1:", PortRef(port=21090)))
    served = {"serves": PortRef(port=21095), "events": PortRef(port=21090)}
    launch = Launch(words=(*words, joined), env={"PORT": PortRef(port=21095)}, **served)
    plan = manifest(
        process("api", Role.FRONTEND, http=21050),
        process("w", Role.DECODE, launch=launch, http=21095, rendezvous=21090),
    )
    api, worker = shifted(plan, 10).processes
    assert worker.launch is not None

    assert api.ports == {"http": 21050}
    assert worker.ports == {"http": 21005, "rendezvous": 21000}
    assert worker.launch.words == (
        *("--port", PortRef(port=21005), HostRef(node=0, port=21000), HostRef(node=1), "21095"),
        Joined(pieces=("tcp://127.0.0.1:", PortRef(port=21000))),
    )
    assert worker.launch.env == {"PORT": PortRef(port=21005)}
    assert worker.launch.serves == PortRef(port=21005)
    assert worker.launch.events == PortRef(port=21000)
    assert shifted(plan, 0) is plan


def test_offsets_differ_between_runs_and_give_no_port_to_two() -> None:
    plan = manifest(process("api", Role.FRONTEND, http=21050), process("w", Role.DECODE, plane=21000, metrics=21001))
    first, second = [*candidates(plan, "7")], [*candidates(plan, "8")]

    assert first == [*candidates(plan, "7")]
    assert first[0] != second[0]
    for seed in range(200):
        for offset in candidates(plan, str(seed)):
            ports = [port for spec in shifted(plan, offset).processes for port in spec.ports.values()]
            assert len(set(ports)) == len(ports)
            assert all(21000 <= port < 21100 for port in ports)


def test_an_offset_whose_ports_are_taken_is_passed_over() -> None:
    with contextlib.ExitStack() as stack:
        blocker = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        taken = blocker.getsockname()[1]
        plan = manifest(process("w", Role.DECODE, plane=taken), ports=PortRange(first=taken, count=1))
        assert [*free_offsets(plan, 0, "127.0.0.1", "7")] == []
        assert [*free_offsets(plan, 1, "127.0.0.1", "7")] == [*candidates(plan, "7")], "it is on another node"
    assert [*free_offsets(plan, 0, "127.0.0.1", "7")] == [*candidates(plan, "7")]


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({}, "0,2"),
        ({"CUDA_VISIBLE_DEVICES": "4,5,7"}, "4,7"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c", "SLURM_JOB_GPUS": "1,2,3"}, "GPU-a,GPU-c"),
        ({"SLURM_STEP_GPUS": "3,4,5", "SLURM_JOB_GPUS": "1,2,3"}, "3,5"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_GPUS": "1,2,3"}, "1,3"),
    ],
)
def test_gpus_of_the_plan_are_positions_among_those_that_were_given(environ: dict[str, str], seen: str) -> None:
    assert visible_gpus(process("w", Role.DECODE), allotted_gpus(environ)) == seen


def test_fewer_gpus_than_planned_are_an_error() -> None:
    with pytest.raises(GpuError, match="needs GPU 2"):
        visible_gpus(process("w", Role.DECODE), allotted_gpus({"CUDA_VISIBLE_DEVICES": "4"}))
