"""Which way a copy takes, from crossovers like those of an H200, and what is kept of measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Place, Sample, Way, cache_file, load, save
from dynamoc.runtime.kv.transfer.planner import Decision, NoWayError, decide, work_of

KIB = 1024
GB = 1e9
OFFLOAD = (Place.DEVICE, Place.HOST)
SPEEDS = {
    (*OFFLOAD, Way.KERNEL): {16: 51.8, 64: 51.8, 256: 52.0, 2048: 52.1},
    (*OFFLOAD, Way.STAGED): {16: 29.0, 64: 45.0, 256: 50.0, 2048: 54.4},
    (*OFFLOAD, Way.BATCH): {16: 28.4, 64: 46.3, 256: 49.0, 2048: 54.0},
}
MEASURED = Measured(
    "0123456789abcdef",
    {"gpu": "a fast one"},
    tuple(
        Sample(*key, run_bytes=kib * KIB, bytes_per_s=speed * GB, n=11)
        for key, speeds in SPEEDS.items()
        for kib, speed in speeds.items()
    ),
    (Missing(*OFFLOAD, Way.NIXL, "no transport of ours"),),
)


def blocks(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def decided(block_bytes: int, sources: np.ndarray, hosts: np.ndarray, *, beside_compute: bool = False) -> Decision:
    return decide(work_of(*OFFLOAD, block_bytes, sources, hosts), MEASURED, beside_compute=beside_compute)


def shuffled(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count).astype(np.uint64)


@pytest.mark.parametrize(
    ("sources", "hosts", "joined", "met"),
    [
        (blocks(4, 5, 6), blocks(1, 2, 3), 1, 1),
        (blocks(6, 4, 5), blocks(3, 1, 2), 1, 1),
        (blocks(4, 6, 5), blocks(1, 2, 3), 3, 1),
        (blocks(4, 5, 6), blocks(1, 3, 5), 3, 3),
        (blocks(4, 5, 9), blocks(1, 2, 3), 2, 1),
        (blocks(7), blocks(0), 1, 1),
        (blocks(), blocks(), 0, 0),
    ],
)
def test_adjacent_blocks_are_joined(sources: np.ndarray, hosts: np.ndarray, joined: int, met: int) -> None:
    there, back = (work_of(*OFFLOAD, 4096, sources, hosts), work_of(*OFFLOAD[::-1], 4096, hosts, sources))

    assert (there.joined, there.met) == (back.joined, back.met) == (joined, met)
    assert there.total_bytes == 4096 * sources.size


def test_short_blocks_in_one_range_of_the_host_are_staged() -> None:
    assert decided(16 * KIB, shuffled(1000, 1), shuffled(1000, 2)).way is Way.STAGED


def test_short_blocks_all_over_the_host_go_by_the_kernel() -> None:
    assert decided(16 * KIB, shuffled(1000, 1), shuffled(1000, 2) * np.uint64(2)).way is Way.KERNEL


def test_staging_that_joins_nothing_is_not_taken() -> None:
    apart = decided(16 * KIB, shuffled(1000, 1), shuffled(1000, 2) * np.uint64(2))

    assert "staged: not taken, would cross in as many pieces as without" in apart.explain()


def test_beside_compute_the_copy_engines_are_taken() -> None:
    decision = decided(16 * KIB, shuffled(1000, 1), shuffled(1000, 2), beside_compute=True)

    assert decision.way is Way.BATCH
    assert "staged: not taken, would take processors" in decision.explain()


def test_one_adjacent_piece_needs_no_staging() -> None:
    pieces = work_of(*OFFLOAD, 16 * KIB, np.arange(1000, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    faster = Measured("x", {}, (*MEASURED.samples, Sample(*OFFLOAD, Way.BATCH, 16_384_000, 55.0 * GB, 11)))

    assert decide(pieces, faster).way is Way.BATCH


def test_a_decision_explains_itself_in_numbers() -> None:
    text = decided(64 * KIB, shuffled(16, 1), shuffled(16, 2)).explain().splitlines()

    assert text[0].startswith("staged: 16 blocks of 65,536 B from device to host, ")
    assert text[0].endswith("1 where one is")
    assert text[1] == "  staged: 0.020 ms, runs of 1,048,576 B"
    assert text[-1] == "  nixl: not taken, no transport of ours"
    assert len(text) == 5


def test_speeds_between_and_beyond_what_was_measured() -> None:
    speed = {kib: MEASURED.bytes_per_s(*OFFLOAD, Way.BATCH, kib * KIB) / GB for kib in (8, 16, 32, 64, 2048, 9999)}

    assert speed[8] == pytest.approx(28.4 / 2)
    assert speed[16] == pytest.approx(28.4)
    assert speed[32] == pytest.approx((28.4 * 46.3) ** 0.5)
    assert speed[64] == pytest.approx(46.3)
    assert speed[9999] == speed[2048] == pytest.approx(54.0)


def test_nothing_to_copy_is_done_at_once() -> None:
    assert all(option.seconds in (0.0, None) for option in decided(4096, blocks(), blocks()).options)


def test_no_way_says_what_is_missing() -> None:
    gone = Measured("x", {}, (), (Missing(*OFFLOAD, Way.KERNEL, "this process sees no GPU"),))

    with pytest.raises(NoWayError, match="no way from device to host: kernel: this process sees no GPU"):
        decide(work_of(*OFFLOAD, 4096, blocks(1), blocks(1)), gone)
    with pytest.raises(NoWayError, match="from disk to device: nothing was measured"):
        decide(work_of(Place.DISK, Place.DEVICE, 4096, blocks(1), blocks(1)), MEASURED)


def test_measurements_are_kept_for_this_host_only(tmp_path: Path) -> None:
    path = save(tmp_path / "new", MEASURED)

    assert load(tmp_path / "new", MEASURED.host) == MEASURED
    assert load(tmp_path, MEASURED.host) is None
    path.rename(cache_file(tmp_path, "f" * 16))
    assert load(tmp_path, "f" * 16) is None
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"host": 3}'], ids=["empty", "cut", "another shape"])
def test_a_damaged_file_is_measured_again(tmp_path: Path, damage: bytes) -> None:
    save(tmp_path, MEASURED).write_bytes(damage)

    assert load(tmp_path, MEASURED.host) is None
