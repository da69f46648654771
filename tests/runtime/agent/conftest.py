"""Runs of small real processes under a real agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stages import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Where runs are put on; whatever is left is killed afterwards."""
    stage = Stage(tmp_path)
    yield stage
    stage.clear()
