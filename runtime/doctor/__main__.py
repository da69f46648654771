"""Measure, or read what was measured: JSON on standard output. A process of its own, since a driver may hang."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from dynamoc.runtime.doctor.disk_paths import measure_disk
from dynamoc.runtime.doctor.gpu_paths import measure_gpus
from dynamoc.runtime.doctor.host_paths import measure_host
from dynamoc.runtime.doctor.machine import facts, name_of
from dynamoc.runtime.doctor.timing import WrongBytesError
from dynamoc.runtime.kv.cuda.device import DeviceError
from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Sample, cache_folder, load, save


def main() -> int:
    """Exit 1 if a way is broken: it failed, or moved wrong bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--disk", type=Path, default=cache_folder())
    parser.add_argument("--cache", type=Path, default=cache_folder())
    parser.add_argument("--mib", type=int, default=64)
    options = parser.parse_args()
    folder = options.disk.expanduser().absolute()
    try:
        measured = examine(folder, options.cache.expanduser(), options.mib << 20, fresh=options.fresh)
    except (WrongBytesError, DeviceError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(measured))
    return 0


def examine(disk: Path, cache: Path, total: int, *, fresh: bool) -> Measured:
    """What is known of this host; what is not is measured, `total` bytes at a time, and kept."""
    here = facts(disk) | {"bytes_a_round": str(total)}
    host = name_of(here)
    kept = None if fresh else load(cache, host)
    if kept is not None:
        return kept
    found = [*measure_host(total), *measure_disk(disk, total), *measure_gpus(total)]
    samples = tuple(one for one in found if isinstance(one, Sample))
    measured = Measured(host, here, samples, tuple(one for one in found if isinstance(one, Missing)))
    save(cache, measured)
    return measured


if __name__ == "__main__":
    sys.exit(main())
