"""An agent whose starter is not heard of any more stops; one that was never promised anything does not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dynamoc.runtime.agent.beat import FILE, silence


def ends(run_dir: Path, limit_s: float, within_s: float, touches: int = 0) -> bool:
    async def watch() -> bool:
        waiting = asyncio.create_task(silence(run_dir, limit_s, 0.02))
        for number in range(touches):
            os.utime(run_dir / FILE, ns=(number, number))
            await asyncio.sleep(0.05)
        done, _ = await asyncio.wait({waiting}, timeout=within_s)
        waiting.cancel()
        return bool(done)

    return asyncio.run(watch())


def test_silence_ends_the_wait(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert ends(tmp_path, 0.1, within_s=5.0)


def test_a_beat_keeps_it_whatever_its_clock_says(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert not ends(tmp_path, 0.4, within_s=0.1, touches=20), "20 beats in a second, of the year 1970"


def test_where_there_never_was_a_beat_nothing_is_missed(tmp_path: Path) -> None:
    assert not ends(tmp_path, 0.05, within_s=0.5)
