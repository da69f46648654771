"""Which host this is, so that what was measured on another, or before a change, is not taken for its own."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from dynamoc import __version__
from dynamoc.runtime.doctor.disk_paths import is_direct
from dynamoc.runtime.kv.cuda.device import DeviceError, checked, require_devices, runtime


def facts(folder: Path) -> dict[str, str]:
    """What the speed of a host's paths depends on. `folder`: of the disk that is measured."""
    found = {
        "dynamoc": __version__,
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpus": str(os.cpu_count()),
        "memory_bytes": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "kernel": platform.release(),
        "disk": f"{folder}, {'past' if is_direct(folder) else 'through'} the page cache",
        "disk_device": str(folder.stat().st_dev) if folder.exists() else "",
    }
    return found | _gpus()


def name_of(facts_: dict[str, str]) -> str:
    """Short, the same for the same facts."""
    return hashlib.blake2b(repr(sorted(facts_.items())).encode(), digest_size=8).hexdigest()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _gpus() -> dict[str, str]:
    try:
        count = require_devices()
    except DeviceError:
        return {"gpus": "0"}
    with checked("name the GPUs"):
        names = [runtime.getDeviceProperties(device)["name"].decode() for device in range(count)]
        return {"gpus": str(count), "gpu": ", ".join(names), "driver": str(runtime.driverGetVersion())}
