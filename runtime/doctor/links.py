"""What a worker knows of its GPU's link to host memory when it starts: read from what was kept, or measured now."""

from __future__ import annotations

import logging

from dynamoc.runtime.doctor.gpu_paths import OVER_PCIE, measure_links
from dynamoc.runtime.doctor.machine import facts, name_of
from dynamoc.runtime.kv.cuda.device import DeviceError
from dynamoc.runtime.kv.transfer.measured import Measured, Missing, Sample, Way, cache_folder, load, save

ROUND_BYTES = 8 << 20
"""Much less than `doctor` moves: a worker that starts has little time, and little memory to spare."""

log = logging.getLogger(__name__)


def known_links() -> Measured:
    """WrongBytesError if a way is broken; where nothing can be kept, it is measured at every start.

    Nothing is known if it cannot be measured, for want of memory say; the missing ways tell why.
    """
    folder = cache_folder()
    here = facts(folder) | {"only": "links", "bytes_a_round": str(ROUND_BYTES)}
    kept = load(folder, host := name_of(here))
    if kept is not None:
        return kept
    try:
        found = list(measure_links(ROUND_BYTES))
    except DeviceError as error:
        return Measured(host, here, (), tuple(Missing(*ends, Way.BATCH, str(error)) for ends in OVER_PCIE))
    samples = tuple(one for one in found if isinstance(one, Sample))
    measured = Measured(host, here, samples, tuple(one for one in found if isinstance(one, Missing)))
    try:
        save(folder, measured)
    except OSError as error:
        log.warning("what the links deliver cannot be kept for the next start: %s", error)
    return measured
