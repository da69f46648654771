"""Whether whoever started the agents is still there: a file of the run folder that it touches again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

FILE = "beat"
LOOK_S = 5.0


async def silence(run_dir: Path, limit_s: float, look_s: float = LOOK_S) -> None:
    """Until the file has not changed for `limit_s`. Where it never was, nobody promised to touch it.

    Changes count, not their times: clocks of nodes differ. Nor does time in which this process did not run itself.
    """
    loop = asyncio.get_running_loop()
    seen = _touched(run_dir)
    heard = looked = loop.time()
    while seen is None or loop.time() - heard <= limit_s:
        await asyncio.sleep(look_s)
        now, touched = loop.time(), _touched(run_dir)
        if (touched is not None and touched != seen) or now - looked > 3 * look_s:
            heard = now
        seen, looked = touched or seen, now


def _touched(run_dir: Path) -> int | None:
    try:
        return (run_dir / FILE).stat().st_mtime_ns
    except OSError:
        return None
