"""How GPUs of this host are joined, as the driver's management library tells: it sees those of other processes too."""

from __future__ import annotations

from typing import Any

_missing: ImportError | None = None
try:
    import pynvml as _pynvml
except ImportError as error:  # the package is there only where GPUs are
    _pynvml, _missing = None, error

nvml: Any = _pynvml


def joined_by_nvlink(one: str, other: str) -> bool | None:
    """Whether two GPUs, by bus address, are; None if the library is missing or cannot tell."""
    if _missing is not None:
        return None
    try:
        nvml.nvmlInit()
        ends = [nvml.nvmlDeviceGetHandleByPciBusId(bus.encode()) for bus in (one, other)]
        status = nvml.nvmlDeviceGetP2PStatus(*ends, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    except nvml.NVMLError:
        return None
    return bool(status == nvml.NVML_P2P_STATUS_OK)
