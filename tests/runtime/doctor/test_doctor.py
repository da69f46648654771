"""The doctor measures by real copies, keeps what it found, and trusts nothing that is not of this host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dynamoc.runtime.doctor.disk_paths import FROM_DISK, TO_DISK, measure_disk
from dynamoc.runtime.doctor.machine import facts, name_of
from dynamoc.runtime.doctor.timing import RUN_BYTES, WrongBytesError, check_arrived
from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Place, Way
from dynamoc.runtime.kv.transfer.planner import decide, work_of

MIB = 2


def examined(folder: Path, *words: str) -> Measured:
    command = [sys.executable, "-m", "dynamoc.runtime.doctor", "--mib", str(MIB), "--cache", str(folder / "cache")]
    done = subprocess.run(
        [*command, "--disk", str(folder), *words], capture_output=True, text=True, timeout=120, check=True
    )
    return msgspec.json.decode(done.stdout, type=Measured)


def test_every_way_of_a_host_is_measured_once_and_kept(tmp_path: Path) -> None:
    first, again, fresh = examined(tmp_path), examined(tmp_path), examined(tmp_path, "--fresh")

    assert again == first
    assert fresh != first
    assert fresh.host == first.host
    host_ways = {(s.source, s.target, s.way) for s in first.samples}
    remote = {(Place.HOST, Place.REMOTE, way) for way in (Way.SHM, Way.TCP)}
    assert {(Place.HOST, Place.HOST, Way.MEMCPY), *remote, TO_DISK, FROM_DISK} <= host_ways
    for way in host_ways:
        found = [s for s in first.samples if (s.source, s.target, s.way) == way]
        assert [s.run_bytes for s in found] == list(RUN_BYTES)
        assert all(s.bytes_per_s > 0 and s.n >= 3 for s in found)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"kv-paths-{first.host}.json"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache"]

    blocks = np.arange(32, dtype=np.uint64)[::-1]
    decision = decide(work_of(Place.HOST, Place.REMOTE, 65536, blocks, blocks), first)
    assert decision.way in (Way.SHM, Way.TCP)
    assert "32 blocks of 65,536 B from host to remote, 1 pieces" in decision.explain()


def test_another_disk_or_amount_is_another_host(tmp_path: Path) -> None:
    here = facts(tmp_path)

    assert name_of(here) == name_of(dict(reversed(here.items())))
    assert name_of(here) != name_of(here | {"disk": "elsewhere"})
    assert name_of(here) != name_of(here | {"kernel": "newer"})


def test_a_folder_that_is_none_is_a_missing_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    found = list(measure_disk(tmp_path / "file", 1 << 20))

    assert [type(one) for one in found] == [Missing, Missing]
    assert "exists" in str(found[0])


def test_wrong_bytes_are_never_a_speed() -> None:
    data = np.zeros(8, np.uint8)

    with pytest.raises(WrongBytesError, match="file from disk to host: what arrived is not what was sent"):
        check_arrived(FROM_DISK, data, data + np.uint8(1))
