"""Shows processes while they start and stop: bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dynamoc.runtime.agent.record import ProcessStatus, State

COLOURS = {
    State.READY: "green",
    State.FAILED: "red",
    State.RESTARTING: "yellow",
    State.DRAINING: "yellow",
    State.DEGRADED: "yellow",
}


class Board(Protocol):
    """Is shown the processes again and again."""

    def show(self, processes: Sequence[ProcessStatus]) -> None:
        """Show what changed."""
        ...


def words_of(process: ProcessStatus) -> str:
    """State and what it is at, in a few words."""
    if process.state is State.STARTING and process.what:
        return f"{process.what}"
    if process.state in (State.RESTARTING, State.FAILED) and process.reason:
        return f"{process.state}: {process.reason}"
    life = f" (incarnation {process.incarnation})" if process.incarnation else ""
    return f"{process.state}{life}"


class Lines:
    """A line per change."""

    def __init__(self, console: Console, known: Sequence[ProcessStatus] = ()) -> None:
        self._console = console
        self._shown = {p.name: (words_of(p), p.incarnation) for p in known}

    def show(self, processes: Sequence[ProcessStatus]) -> None:
        """Show what changed."""
        for process in processes:
            now = (words_of(process), process.incarnation)
            if self._shown.get(process.name) != now and process.state is not State.WAITING:
                self._shown[process.name] = now
                self._console.print(f"{process.name}: {now[0]}", highlight=False, markup=False, soft_wrap=True)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, processes: Sequence[ProcessStatus]) -> None:
        """Move the bars."""
        width = max((len(p.name) for p in processes), default=0)
        for process in processes:
            if process.name not in self._tasks:
                self._tasks[process.name] = self._progress.add_task(process.name.ljust(width), total=1.0, words="")
            colour = COLOURS.get(process.state, "default")
            done = process.state in (State.READY, State.DRAINING, State.STOPPED)
            self._progress.update(
                self._tasks[process.name],
                completed=1.0 if done else min(process.fraction, 0.999),
                words=f"[{colour}]{escape(words_of(process))}[/]",
            )


@contextmanager
def board(console: Console, known: Sequence[ProcessStatus] = ()) -> Iterator[Board]:
    """A board while the block runs; on lines, nothing is said of what is `known`."""
    if not console.is_terminal:
        yield Lines(console, known)
        return
    columns = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console, transient=False) as progress:
        yield _Bars(progress)
