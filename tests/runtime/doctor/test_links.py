"""What a worker knows of its links at a start: measured once a host, kept, and read the next time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamoc.runtime.doctor import links
from dynamoc.runtime.doctor.gpu_paths import OVER_PCIE
from dynamoc.runtime.doctor.links import known_links
from dynamoc.runtime.kv.cuda.device import DeviceError
from dynamoc.runtime.kv.transfer.measured import Missing, Sample, Way

Found = Sample | Missing
SAMPLES = tuple(Sample(*ends, Way.BATCH, 16 << 10, 28e9, 5) for ends in OVER_PCIE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_links_are_measured_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(total: int) -> Iterator[Found]:
        asked.append(total)
        yield from SAMPLES

    monkeypatch.setattr(links, "measure_links", measure)

    assert known_links().samples == SAMPLES
    assert known_links().samples == SAMPLES
    assert len(asked) == 1
    assert len(list((home / ".cache/dynamoc").glob("kv-paths-*.json"))) == 1


def test_what_cannot_be_kept_is_measured_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (home / ".cache").write_text("a file where the folder should be")
    monkeypatch.setattr(links, "measure_links", lambda _total: iter(SAMPLES))

    assert known_links().samples == SAMPLES
    assert "cannot be kept for the next start" in caplog.text


def test_a_device_that_fails_is_told_and_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_total: int) -> Iterator[Found]:
        raise DeviceError("cannot allocate 64 MiB: out of memory")
        yield

    monkeypatch.setattr(links, "measure_links", measure)
    known = known_links()

    assert not known.samples
    assert {missing.reason for missing in known.missing} == {"cannot allocate 64 MiB: out of memory"}
    assert not list(home.rglob("kv-paths-*.json"))


def test_without_a_gpu_every_way_is_missing() -> None:
    known = known_links()

    if not known.samples:
        assert {missing.way for missing in known.missing} == {Way.BATCH, Way.KERNEL, Way.STAGED, Way.MEMCPY}
