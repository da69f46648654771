"""Which way pages take between a GPU and host memory: decided once for each kind of copy, told once, counted always."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from dynamoc.runtime.kv.tiers.ways import Ways
from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Place, Sample, Way

KIB = 1024
DOWN, UP = (Place.DEVICE, Place.HOST), (Place.HOST, Place.DEVICE)
GB_PER_S = {Way.KERNEL: (51, 52), Way.BATCH: (28, 54), Way.STAGED: (54, 54), Way.MEMCPY: (9, 53)}
"""With pieces of 16 KiB, and of 2 MiB."""


def ways(*absent: Way) -> Ways:
    samples = [
        Sample(*ends, way, size, speed * 1e9, 5)
        for ends in (DOWN, UP)
        for way, speeds in GB_PER_S.items()
        for size, speed in zip((16 * KIB, 2048 * KIB), speeds, strict=True)
        if way not in absent
    ]
    missing = [Missing(*ends, way, "an old driver") for ends in (DOWN, UP) for way in absent]
    return Ways(Measured("a host", {}, tuple(samples), tuple(missing)), Way.BATCH)


@pytest.mark.parametrize(
    ("size", "absent", "alone", "beside"),
    [
        (16 * KIB, (), Way.KERNEL, Way.BATCH),
        (2048 * KIB, (), Way.BATCH, Way.BATCH),
        (16 * KIB, (Way.BATCH,), Way.KERNEL, Way.MEMCPY),
        (2048 * KIB, (Way.BATCH,), Way.MEMCPY, Way.MEMCPY),
        (16 * KIB, (Way.BATCH, Way.MEMCPY), Way.KERNEL, Way.KERNEL),
    ],
)
@pytest.mark.parametrize("ends", [DOWN, UP], ids=["down", "up"])
def test_pages_go_the_soonest_way_and_beside_compute_by_copy_engines(
    ends: tuple[Place, Place], size: int, absent: tuple[Way, ...], alone: Way, beside: Way
) -> None:
    chosen = ways(*absent)

    assert chosen.choose(*ends, size, 8, beside_compute=False) is alone
    assert chosen.choose(*ends, size, 8, beside_compute=True) is beside


def test_a_decision_is_told_once_with_its_numbers_and_counted_every_time(caplog: pytest.LogCaptureFixture) -> None:
    chosen = ways()
    with caplog.at_level(logging.INFO, "dynamoc.runtime.kv.tiers.ways"):
        for pieces in (8, 64, 1):
            chosen.choose(*DOWN, 16 * KIB, pieces, beside_compute=True)
        chosen.choose(*UP, 16 * KIB, 8, beside_compute=False)
    told = [record.getMessage() for record in caplog.records]

    assert len(told) == 2
    assert told[0].startswith("beside compute, batch: 8 blocks of 16,384 B from device to host")
    assert "staged: not taken, would cross in as many pieces as without" in told[0]
    assert "kernel: not taken, would take processors from what the device computes" in told[0]
    assert chosen.take() == Counter({("batch", "offload"): 3, ("kernel", "onboard"): 1})
    assert not chosen.take()


def test_where_nothing_was_measured_copy_engines_are_taken_and_it_is_told_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = ways(*GB_PER_S)
    for _ in range(2):
        assert chosen.choose(*UP, 16 * KIB, 1, beside_compute=False) is Way.BATCH

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no way from host to device: " in record.getMessage()
    assert "kernel: an old driver" in record.getMessage()
    assert chosen.take() == Counter({("batch", "onboard"): 2})
