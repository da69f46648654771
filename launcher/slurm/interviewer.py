"""`python -m dynamoc.launcher.slurm.interviewer RUN`: inside a job, asks the pipeline its questions."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from dynamoc.launcher.asking import AskError
from dynamoc.launcher.interview import interview
from dynamoc.launcher.runs import RunFolderError, manifest_of, statuses_of
from dynamoc.launcher.scraping import ScrapeError
from dynamoc.runtime.agent.record import ProcessStatus, State
from dynamoc.runtime.manifest import Manifest, Role
from dynamoc.runtime.process import Endpoint

POLL_S = 0.5


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`questions.json` of a run folder."""

    questions: list[str]
    max_tokens: int = 128


class JobRun:
    """A run whose agents somebody else started; what is known of it is in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = manifest_of(folder)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The address of every node that has a process."""
        places = msgspec.json.decode((self.folder / "endpoints.json").read_bytes(), type=dict[str, Endpoint])
        known = {process.node: places[process.name].host for process in self.manifest.processes}
        return tuple(known.get(node, "") for node in range(self.manifest.nodes))

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        hosts = self.hosts
        return tuple(f"http://{hosts[f.node]}:{f.ports['http']}" for f in self.manifest.of_role(Role.FRONTEND))

    def processes(self) -> list[ProcessStatus]:
        """All processes in plan order, as far as agents spoke of them."""
        known = {n: p for s in statuses_of(self.folder, self.manifest).values() for n, p in s.processes.items()}
        return [known[spec.name] for spec in self.manifest.processes if spec.name in known]

    def is_ready(self) -> bool:
        """Whether every process of every node does its work."""
        processes = self.processes()
        complete = len(processes) == len(self.manifest.processes)
        return complete and all(process.state is State.READY for process in processes)

    def wait_ready(self) -> None:
        """Until everything is ready; AskError when that takes longer than every process together may."""
        limit = max((1 + p.restart.limit) * p.ready_timeout_s for p in self.manifest.processes)
        deadline = time.monotonic() + limit
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise AskError(f"not ready within {limit:g} s")
            time.sleep(POLL_S)


def main(folder: Path) -> int:
    """0 when everything was answered as it should be, else 1."""
    console = Console(highlight=False, soft_wrap=True, width=120)
    try:
        asked = msgspec.json.decode((folder / "questions.json").read_bytes(), type=Questions)
        run = JobRun(folder)
        run.wait_ready()
        faults = interview(run, console, asked.questions, asked.max_tokens)
    except (AskError, ScrapeError, RunFolderError, OSError, msgspec.MsgspecError) as error:
        faults = [str(error)]
    for fault in faults:
        console.print(f"error: {fault}", markup=False)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
