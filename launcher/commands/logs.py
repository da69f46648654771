"""`dynamoc logs`: what the processes of a run wrote."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

POLL_S = 0.2
LOOK_S = 1.0


@click.command()
@click.argument("run", required=False)
@click.argument("process", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is over or Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Only the last N lines of each log.")
@click.option("--all", "every", is_flag=True, help="Earlier incarnations too.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where runs are.")
def command(run: str | None, process: str | None, follow: bool, lines: int | None, every: bool, runs_dir: Path) -> None:
    """Show the logs of PROCESS, or of all, in RUN (a folder, a name or its beginning; the latest by default).

    A single word that names a process of the latest run is taken for PROCESS.
    """
    from dynamoc.launcher.runs import RunFolderError, find_run, manifest_of
    from dynamoc.launcher.slurm.receipts import ReceiptsError
    from dynamoc.launcher.slurm.tools import SlurmError

    try:
        folder: Path | None = None
        names: tuple[str, ...] = ()
        if run is not None and process is None:
            folder, names = _process_of_latest(runs_dir, run)
        if folder is None:
            folder = find_run(runs_dir, run)
            names = tuple(spec.name for spec in manifest_of(folder).processes)
            if process is not None and process not in names:
                raise click.ClickException(f"no process `{process}` in {folder.name}; there are {', '.join(names)}")
            names = (process,) if process is not None else names
        tails = Tails(folder, names, every)
        tails.print_new(lines)
        end = End(folder)
        while follow and not end.is_reached():
            time.sleep(POLL_S)
            tails.print_new(None)
    except (RunFolderError, ReceiptsError, SlurmError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        return


def _process_of_latest(runs_dir: Path, word: str) -> tuple[Path | None, tuple[str, ...]]:
    from dynamoc.launcher.runs import RunFolderError, find_run, manifest_of

    try:
        latest = find_run(runs_dir, None)
    except RunFolderError:
        return None, ()
    return (latest, (word,)) if any(p.name == word for p in manifest_of(latest).processes) else (None, ())


@dataclass
class End:
    """When a run will write nothing more. Says what a job waits for as long as none of its agents lives."""

    folder: Path
    _looked: float = -LOOK_S
    _said: str = ""

    def is_reached(self) -> bool:
        """Whether no agent lives, and none will."""
        from dynamoc.launcher.runs import has_agent, manifest_of

        if any(has_agent(self.folder, process.node) for process in manifest_of(self.folder).processes):
            return False
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        return self._is_over()

    def _is_over(self) -> bool:
        from dynamoc.launcher.slurm.following import look_patiently
        from dynamoc.launcher.slurm.submission import job_of

        job = job_of(self.folder)
        now = None if job is None else look_patiently(job)
        if now is None or now.phase.is_over:
            return True
        if str(now) != self._said:
            self._said = str(now)
            click.echo(self._said, err=True)
        return False


@dataclass
class Tails:
    """The logs of some processes, each read as far as it was printed."""

    folder: Path
    names: Sequence[str]
    every: bool
    _read: dict[Path, int] = field(default_factory=dict)

    def print_new(self, last: int | None) -> None:
        """Print complete lines that were not printed before, at most the `last` of each log."""
        for name in self.names:
            for log in self._logs(name):
                prefix = f"{name} | " if len(self.names) > 1 else ""
                for line in deque(self._new_lines(log), last):
                    click.echo(prefix + line)

    def _logs(self, name: str) -> list[Path]:
        """By incarnation; without `every` only those from the newest at the first look on."""
        found = [
            (int(p.stem.rpartition("-")[2]), p)
            for p in (self.folder / "logs").glob(f"{name}-*.log")
            if p.stem.rpartition("-")[0] == name and p.stem.rpartition("-")[2].isdecimal()
        ]
        logs = [path for _, path in sorted(found)]
        if not self.every and logs and not any(path in self._read for path in logs):
            for old in logs[:-1]:
                self._read[old] = old.stat().st_size
        return logs

    def _new_lines(self, log: Path) -> list[str]:
        with log.open("rb") as file:
            if log.stat().st_size < self._read.get(log, 0):  # it was too long, and started over
                self._read[log] = 0
            file.seek(self._read.get(log, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[log] = self._read.get(log, 0) + len(whole)
        return whole.decode(errors="replace").splitlines()
