"""`dynamoc doctor --kv` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from dynamoc.launcher.examination import table
from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Place, Sample, Way


def doctor(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-m", "dynamoc", "doctor", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_the_table_and_the_record_are_of_one_measurement(tmp_path: Path) -> None:
    shown = doctor(tmp_path, "--kv", "--mib", "2")
    record = doctor(tmp_path, "--kv", "--mib", "2", "--json")

    assert shown.returncode == record.returncode == 0, shown.stderr + record.stderr
    assert shown.stdout == table(record.stdout.encode()).replace(str(Path.home()), str(tmp_path))
    ways = {(s.source, s.target, s.way) for s in msgspec.json.decode(record.stdout, type=Measured).samples}
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert all(any(line[:3] == list(way) and len(line) == 7 for line in lines) for way in ways)
    assert {(Place.HOST, Place.REMOTE, Way.SHM), (Place.DISK, Place.HOST, Way.FILE)} <= ways


def test_no_answer_in_time_is_an_error_and_no_wait(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--kv", "--mib", "1024", "--limit", "1")

    assert done.returncode == 1
    assert done.stderr == "Error: no answer within 1 s: a driver or a disk hangs\n"


def test_nothing_to_examine_is_a_usage_error(tmp_path: Path) -> None:
    done = doctor(tmp_path)

    assert done.returncode == 2
    assert "say what is to be examined: `--kv`" in done.stderr


def test_columns_stand_under_each_other() -> None:
    samples = (
        Sample(Place.HOST, Place.REMOTE, Way.SHM, 16384, 5e9, 5),
        Sample(Place.HOST, Place.REMOTE, Way.SHM, 2 << 20, 12.344e9, 5),
        Sample(Place.DISK, Place.HOST, Way.FILE, 2 << 20, 1e9, 5),
    )
    missing = (Missing(Place.DEVICE, Place.PEER, Way.KERNEL, "there is one GPU"),)
    record = msgspec.json.encode(Measured("a" * 16, {"cpus": "2", "gpu": ""}, samples, missing))

    assert table(record).splitlines()[:7] == [
        "cpus: 2",
        "",
        "GB/s by length of shuffled runs",
        "from    to      way       16 KiB     2 MiB",
        "host    remote  shm         5.00     12.34",
        "disk    host    file                  1.00",
        "device  peer    kernel  - there is one GPU",
    ]
