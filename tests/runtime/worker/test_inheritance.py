"""Blocks of an earlier life are back in use when the last of its writers has ended or attached anew, and not before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest
from worker_rig import until

from dynamoc.runtime.engines.protocol import Recovery
from dynamoc.runtime.kv.memory_service.journal import Journal
from dynamoc.runtime.metrics import Metrics
from dynamoc.runtime.transports.process import this_process
from dynamoc.runtime.transports.shm import ShmTransport
from dynamoc.runtime.worker.inheritance import Inheritance

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


class Kept:
    """A pool's journal, and how often its held-back blocks were given back."""

    recovery = Recovery(verified=3, wrong=1, lost_because="other")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.writers = journal.read().writers
        self.readmitted = 0
        self.is_there = True

    def admit(self, writer: bytes) -> None:
        self._journal.admit(writer)

    def dismiss(self, writer: bytes) -> None:
        self._journal.dismiss(writer)

    def readmit(self) -> None:
        self.readmitted += 1

    def is_kept(self) -> bool:
        return self.is_there


class Writer:
    """A process, as it encodes itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()
        with open(f"/proc/{self.process.pid}/stat") as stat:
            started = int(stat.read().rpartition(")")[2].split()[19])
        self.name = msgspec.structs.replace(this_process(), pid=self.process.pid, start_ticks=started).encode()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    made = [Writer() for _ in range(3)]
    yield made
    for writer in made:
        writer.end()


@pytest.fixture
def journal() -> Journal:
    return Journal(memoryview(bytearray(Journal.size(2, 4))), 2, 4)


def begun(kept: Kept, metrics: Metrics | None = None) -> Inheritance:
    made = Inheritance(kept, ShmTransport(b""), metrics or Metrics(), lambda: None)
    made.start()
    return made


def test_each_writer_has_to_end_or_to_attach(journal: Journal, writers: list[Writer]) -> None:
    async def test() -> None:
        for writer in writers:
            journal.admit(writer.name)
        kept = Kept(journal)
        inheritance = begun(kept)
        inheritance.attached(writers[0].name)
        writers[1].end()
        await until(lambda: len(journal.read().writers) == 2, "the one that has ended is dismissed")
        assert kept.readmitted == 0, "one is alive and has not attached"
        inheritance.attached(b"")
        inheritance.attached(writers[0].name)
        assert kept.readmitted == 0
        writers[2].end()
        await until(lambda: kept.readmitted == 1, "all are accounted for")

        assert journal.read().writers == (writers[0].name,), "whoever may write now stays known"
        await inheritance.close()

    asyncio.run(test())


def test_whoever_attaches_is_recorded_and_forgotten_after_its_end(journal: Journal, writers: list[Writer]) -> None:
    async def test() -> None:
        kept = Kept(journal)
        inheritance = begun(kept)
        inheritance.attached(writers[0].name)
        inheritance.attached(writers[1].name)
        assert set(journal.read().writers) == {writers[0].name, writers[1].name}
        writers[0].end()
        inheritance.attached(writers[2].name)

        assert set(journal.read().writers) == {writers[1].name, writers[2].name}
        assert kept.readmitted == 0, "an earlier life left nothing"
        await inheritance.close()

    asyncio.run(test())


def test_what_was_found_is_counted_and_an_owner_that_goes_is_told_once(journal: Journal) -> None:
    async def test() -> None:
        kept, metrics, told = Kept(journal), Metrics(), []
        inheritance = Inheritance(kept, None, metrics, lambda: told.append(1))
        inheritance.start()
        counted = metrics.counter("dynamoc_kv_recovered_blocks_total")
        assert counted.labels("verified")._value.get() == 3
        assert counted.labels("wrong")._value.get() == 1
        assert metrics.counter("dynamoc_kv_abandoned_pools_total").labels("other")._value.get() == 1
        assert metrics.gauge("dynamoc_kv_pool_kept")._value.get() == 1
        kept.is_there = False
        await until(lambda: told, "it noticed")
        await asyncio.sleep(0.6)

        assert told == [1]
        assert metrics.gauge("dynamoc_kv_pool_kept")._value.get() == 0
        await inheritance.close()

    asyncio.run(test())
