"""Results by point id, shared by all campaigns in one folder: what was measured once is not measured again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dynamoc.launcher.campaign.state import Task
from dynamoc.launcher.results.row import Row, RowError, encode_row, read_row
from dynamoc.launcher.results.verdict import Standing, judge
from dynamoc.runtime.agent.record import write_atomically


class ResultCache:
    """A file for each repeat of each point. Only valid results are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, task: Task) -> Row | None:
        """The result, None if there is none that can be read."""
        try:
            return read_row(self._file(task))
        except RowError:
            return None

    def put(self, task: Task, row: Row) -> None:
        """Keep a valid result."""
        if judge(row).standing is Standing.VALID:
            self._folder.mkdir(exist_ok=True)
            write_atomically(self._file(task), encode_row(msgspec.structs.replace(row, point=task.point.id)))

    def _file(self, task: Task) -> Path:
        return self._folder / f"{task.name}.json"
