"""The words of a launch, completed with what only the run knows: addresses, ports, paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynamoc.runtime.agent.record import write_atomically
from dynamoc.runtime.manifest import FileRef, HostRef, Joined, Launch, Manifest, PortRef, ProcessSpec, Word
from dynamoc.runtime.process import Endpoint

FOLDER = "launch"


class LaunchError(ValueError):
    """A launch names what the plan does not have; the message says what."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is started: words, and what its environment has besides that of its starter."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Completion:
    """Completes the words of one process."""

    manifest: Manifest
    spec: ProcessSpec
    endpoints: Mapping[str, Endpoint]
    run_dir: Path

    def command(self, launch: Launch) -> Command:
        """Files are written first, so that every word is true when this returns."""
        for name, text in launch.files.items():
            self._file(name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file(name), text.encode())
        words = tuple(self._word(word, launch) for word in launch.words)
        env = {name: self._word(word, launch) for name, word in launch.env.items()}
        if launch.python is None:
            return Command((sys.executable, *words), env)
        python = str(Path(launch.python).expanduser())
        return Command((python, *words), _beside(python) | env)

    def _word(self, word: Word, launch: Launch) -> str:
        match word:
            case HostRef(node=node, port=port):
                host = self._host(node)
                if port is None:
                    return host
                return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            case PortRef(port=port):
                return str(port)
            case FileRef(name=name):
                if name not in launch.files:
                    raise LaunchError(f"`{self.spec.name}` names a file `{name}`, which its launch does not bring")
                return str(self._file(name))
            case Joined(pieces=pieces):
                return "".join(self._word(piece, launch) for piece in pieces)
            case str():
                return word

    def _host(self, node: int) -> str:
        for other in self.manifest.processes:
            if other.node == node:
                return self.endpoints[other.name].host
        raise LaunchError(f"`{self.spec.name}` names node {node}, where the plan has no process")

    def _file(self, name: str) -> Path:
        if Path(name).name != name:
            raise LaunchError(f"`{self.spec.name}` brings a file `{name}`: that is not a plain name")
        return self.run_dir / FOLDER / self.spec.name / name


def _beside(python: str) -> dict[str, str]:
    """An engine calls tools of its environment by name, such as its compiler's build program."""
    folder, slash, _ = python.rpartition("/")
    return {"PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}"} if slash else {}
