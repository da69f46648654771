"""Who reads nodes and jobs of Slurm: its library where Python reaches it, else its command-line tools."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, Protocol

from dynamoc.launcher.discovery import DiscoveryError, Findings, Queue
from dynamoc.launcher.programs import ask
from dynamoc.launcher.slurm import tools
from dynamoc.launcher.slurm.tools import Job, SlurmError
from dynamoc.launcher.slurm_inventory import NODE_WORDS, QUEUE_WORDS, findings_of, read_slurm

MODULE = "pyslurm"
_RELEASE = re.compile(r"([0-9]+)\.([0-9]+)\.[0-9]+")


class Reader(Protocol):
    """Reads, and changes nothing. DiscoveryError of nodes and SlurmError of a job say why there is no answer."""

    def findings(self) -> Findings:
        """All usable nodes, and the partitions."""
        ...

    def job(self, job: str) -> Job | None:
        """A job as Slurm has it now; None where nobody knows it any more."""
        ...


ABSENT = f"{MODULE} is not installed"


def choose_reader() -> tuple[Reader, str]:
    """The reader for this site, and why it is this one."""
    try:
        library = importlib.import_module(MODULE)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == MODULE
        return CommandLine(), ABSENT if missing else f"{MODULE} cannot be loaded: {error}"
    try:
        ours, site = _release(str(library.__version__)), _release(ask(["scontrol", "--version"]))
    except DiscoveryError as error:
        return CommandLine(), f"{MODULE} may be of another release: {error}"
    if ours != site:
        return CommandLine(), f"{MODULE} is of Slurm {ours}, the site has {site}"
    return Library(library), f"{MODULE} {library.__version__}"


def _release(text: str) -> str:
    """25.11 of `slurm 25.11.2`: libraries of one release talk to each other."""
    found = _RELEASE.search(text)
    return f"{int(found[1])}.{int(found[2]):02}" if found is not None else text.strip()


class CommandLine:
    """scontrol, sinfo and sacct: their text forms are the same in every version."""

    def findings(self) -> Findings:
        """All usable nodes, and the partitions."""
        return read_slurm(ask(NODE_WORDS), ask(QUEUE_WORDS))

    def job(self, job: str) -> Job | None:
        """A job, from the controller or from accounting."""
        return tools.look(job)


class Library:
    """pyslurm: one call for all nodes, and no text to read. Accounting stays with the tools."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def findings(self) -> Findings:
        """All usable nodes, and the partitions."""
        try:
            nodes, partitions = self._library.Nodes.load(), self._library.Partitions.load()
        except self._library.RPCError as error:
            raise DiscoveryError(f"Slurm's controller did not answer {MODULE}: {error}") from error
        queues = tuple(_queue(name, partition) for name, partition in partitions.items())
        return findings_of(map(_record, nodes.values()), queues, provenance=f"nodes and partitions by {MODULE}")

    def job(self, job: str) -> Job | None:
        """A job, from the controller or, where that has forgotten it, from accounting."""
        try:
            found = self._library.Job.load(int(job))
        except self._library.RPCError as error:
            if tools.NO_SUCH_JOB.lower() in str(error).lower():
                return tools.look(job)
            raise SlurmError(f"{MODULE}: {error}") from error
        reason = found.state_reason or ""
        return Job(
            id=job,
            state=found.state,
            reason="" if reason == "None" else reason,
            exit_code=f"{found.exit_code or 0}:{found.exit_code_signal or 0}",
            nodes=found.allocated_nodes or "",
            restarts=found.requeue_count or 0,
        )


def _record(node: Any) -> Mapping[str, str]:
    """In the words of `scontrol show node`."""
    return {
        "NodeName": node.name,
        "CPUTot": str(node.total_cpus),
        "CPUEfctv": str(node.effective_cpus),
        "RealMemory": str(node.real_memory or 0),
        "Gres": ",".join(f"{name}:{count}" for name, count in node.configured_gres.items()),
        "State": node.state,
        "AvailableFeatures": ",".join(node.available_features or ()),
        "TmpDisk": str(node.temporary_disk or 0),
    }


def _queue(name: str, partition: Any) -> Queue:
    """Limits are numbers; anything else is none."""
    minutes, nodes = partition.max_time, partition.max_nodes
    time = f"{minutes // 60}:{minutes % 60:02}:00" if isinstance(minutes, int) else None
    return Queue(name, time, nodes if isinstance(nodes, int) else None)
