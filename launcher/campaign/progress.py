"""Progress of a campaign: a live table on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from dynamoc.launcher.campaign.status import Status, status_table

LINES = 20
"""At most, where there is no terminal."""


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[Status], None]]:
    """What shows a status."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda status: live.update(status_table(status), refresh=True)
        return
    yield _Sparse(console).show


class _Sparse:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = -1

    def show(self, status: Status) -> None:
        """A line for every twentieth of the points."""
        over = status.done + status.failed + status.left_out
        step = LINES * over // max(1, status.most)
        if step != self._shown:
            self._shown = step
            eta = f", about {status.eta_s:.0f} s left" if status.eta_s is not None else ""
            words = f"{over} of at most {status.most} points, {status.failed} failed{eta}"
            self._console.print(words, markup=False)
