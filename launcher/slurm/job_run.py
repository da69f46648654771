"""A run inside a job: somebody else started its agents, and what is known of it is in its folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dynamoc.launcher.runs import manifest_of, statuses_of
from dynamoc.runtime.agent.record import ProcessStatus
from dynamoc.runtime.manifest import Manifest, Role
from dynamoc.runtime.process import Endpoint


class JobRun:
    """`launch` tells this start of the run from earlier ones, whose last words are still in the folder."""

    def __init__(self, folder: Path, launch: str) -> None:
        self.folder = folder
        self._planned = manifest_of(folder)
        self.launch = launch

    @property
    def manifest(self) -> Manifest:
        """The plan, with the ports that the job has taken."""
        try:
            places = self._places()
        except FileNotFoundError:  # no agent has taken any yet
            return self._planned
        taken = [msgspec.structs.replace(spec, ports=places[spec.name].ports) for spec in self._planned.processes]
        return msgspec.structs.replace(self._planned, processes=tuple(taken))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The address of every node that has a process."""
        places = self._places()
        known = {process.node: places[process.name].host for process in self._planned.processes}
        return tuple(known.get(node, "") for node in range(self._planned.nodes))

    def urls(self) -> tuple[str, ...]:
        """Where the frontends answer."""
        places = [self._places()[frontend.name] for frontend in self._planned.of_role(Role.FRONTEND)]
        return tuple(f"http://{place.host}:{place.ports['http']}" for place in places)

    def processes(self) -> list[ProcessStatus]:
        """All processes in plan order, as far as the agents of this start spoke of them."""
        statuses = statuses_of(self.folder, self._planned).values()
        known = {n: p for s in statuses if s.launch == self.launch for n, p in s.processes.items()}
        return [known[spec.name] for spec in self._planned.processes if spec.name in known]

    def _places(self) -> dict[str, Endpoint]:
        data = (self.folder / "endpoints.json").read_bytes()
        return msgspec.json.decode(data, type=dict[str, Endpoint])
