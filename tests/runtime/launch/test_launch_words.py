"""Words of a launch: completed from the run, files written first, and which rank is told what."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynamoc.runtime.launch.command import Completion, LaunchError
from dynamoc.runtime.launch.rank import main, place_of
from dynamoc.runtime.manifest import (
    MANIFEST_VERSION,
    FileRef,
    HostRef,
    Joined,
    Launch,
    Manifest,
    ModelRef,
    PortRef,
    ProcessSpec,
    Role,
    encode_manifest,
)
from dynamoc.runtime.process import Endpoint


def part(number: int, launch: Launch, ranks: tuple[int, ...] = (0,)) -> ProcessSpec:
    return ProcessSpec(
        name=f"w-0-{number}" if number else "w-0",
        component="w",
        role=Role.DECODE,
        replica=0,
        node=number,
        part=number,
        argv=(),
        launch=launch,
        ranks=ranks,
        gpus=tuple(range(len(ranks))),
    )


def plan(*parts: ProcessSpec) -> Manifest:
    model = ModelRef(ref="a/b", served_name="b")
    return Manifest(version=MANIFEST_VERSION, name="m", plan_hash="", model=model, nodes=len(parts), processes=parts)


def completion(tmp_path: Path, launch: Launch, host: str = "10.0.0.7") -> Completion:
    spec = part(0, launch)
    return Completion(plan(spec), spec, {"w-0": Endpoint(host, {})}, tmp_path)


def test_words_are_completed_and_files_are_there(tmp_path: Path) -> None:
    words = ("-m", "engine", HostRef(node=0), HostRef(node=0, port=9), PortRef(port=8), FileRef(name="o.yaml"), "$x; y")
    launch = Launch(words=words, env={"AT": HostRef(node=0, port=9)}, files={"o.yaml": "a: 1\n"})
    command = completion(tmp_path, launch).command(launch)
    file = tmp_path / "launch/w-0/o.yaml"

    assert command.argv == (sys.executable, "-m", "engine", "10.0.0.7", "10.0.0.7:9", "8", str(file), "$x; y")
    assert command.env == {"AT": "10.0.0.7:9"}
    assert file.read_text() == "a: 1\n"
    assert [path.name for path in file.parent.iterdir()] == ["o.yaml"]


def test_a_word_of_several_pieces_is_one_word(tmp_path: Path) -> None:
    launch = Launch(words=(Joined(pieces=('{"endpoint": "tcp://', HostRef(node=0, port=9), '"}')),))

    assert completion(tmp_path, launch).command(launch).argv[1:] == ('{"endpoint": "tcp://10.0.0.7:9"}',)


def test_an_engine_has_its_own_interpreter_and_the_tools_beside_it(tmp_path: Path) -> None:
    launch = Launch(words=("-m", "engine"), python="~/venvs/engine/bin/python")
    command = completion(tmp_path, launch).command(launch)
    folder = Path.home() / "venvs/engine/bin"

    assert command.argv[0] == str(folder / "python")
    assert command.env["PATH"].split(":")[0] == str(folder)
    assert "PATH" not in completion(tmp_path, launch).command(Launch(words=(), python="python3.12")).env


def test_an_address_of_version_6_is_in_brackets_only_before_a_port(tmp_path: Path) -> None:
    launch = Launch(words=(HostRef(node=0), HostRef(node=0, port=9)))

    assert completion(tmp_path, launch, "fd00::1").command(launch).argv[1:] == ("fd00::1", "[fd00::1]:9")


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        (Launch(words=(FileRef(name="o.yaml"),)), "does not bring"),
        (Launch(words=(HostRef(node=3),)), "node 3"),
        (Launch(words=(), files={"../o.yaml": ""}), "not a plain name"),
    ],
)
def test_what_the_plan_does_not_have_is_an_error(launch: Launch, why: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=why):
        completion(tmp_path, launch).command(launch)


def step(rank: int, node: int, local: int) -> dict[str, str]:
    return {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}


def test_the_first_rank_leads_and_all_others_follow() -> None:
    lead, follow = Launch(words=("lead",), mpi=True), Launch(words=("follow",), mpi=True)
    manifest = plan(part(0, lead, (0, 1)), part(1, follow, (2, 3)))
    told = [place_of(manifest, "w-0", step(rank, rank // 2, rank % 2)) for rank in range(4)]

    assert [(spec.name, launch.words[0], rank) for spec, launch, rank in told] == [
        ("w-0", "lead", 0),
        ("w-0", "follow", 1),
        ("w-0-1", "follow", 2),
        ("w-0-1", "follow", 3),
    ]


def test_a_step_that_numbers_ranks_otherwise_is_an_error() -> None:
    launch = Launch(words=("x",), mpi=True)
    manifest = plan(part(0, launch, (0, 1)), part(1, launch, (2, 3)))

    with pytest.raises(LaunchError, match="rank 1, the plan says 2"):
        place_of(manifest, "w-0", step(1, 1, 0))
    with pytest.raises(LaunchError, match="no MPI program"):
        place_of(plan(part(0, Launch(words=()))), "w-0", step(0, 0, 0))


def test_a_rank_outside_a_step_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    (tmp_path / "plan.json").write_text(encode_manifest(plan(part(0, Launch(words=(), mpi=True)))))

    assert main(["--run-dir", str(tmp_path), "--worker", "w-0", "--hosts", "127.0.0.1"]) == 2
    assert "SLURM_PROCID" in capsys.readouterr().err
