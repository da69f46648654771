"""Options of the whole suite, and how its files are spread over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# The same examples every time, however slow the machine: a run that changed nothing fails no more than the one before.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None)
settings.load_profile("suite")

UNITS = {
    "slurm": ("tests/integration/test_slurm",),
    "busy": (
        "tests/integration/",
        "tests/launcher/campaign/test_campaign_crashes.py",
        "tests/launcher/test_up.py",
        "tests/runtime/agent/",
        "tests/runtime/worker/",
    ),
}
"""Files that one process runs, one after the other: those that start many processes, or stop and kill them under a
deadline, so that they never meet; beside them those that mostly wait for Slurm, then what a processor is enough for."""


def unit_of(nodeid: str) -> str:
    """The first that a test belongs to; most are of their file's own."""
    return next((unit for unit, starts in UNITS.items() if nodeid.startswith(starts)), nodeid.partition("::")[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # of several processes; the longest units begin first
        items.sort(key=lambda item: unit_of(item.nodeid) not in UNITS)


class UnitScheduling(LoadScopeScheduling):
    """A unit goes as a whole to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> UnitScheduling:
    config.option.loadscopereorder = False
    return UnitScheduling(config, log)


class Golden:
    """Compares text with a file; a missing file fails. Only `--update-golden` writes."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, path: Path, text: str) -> None:
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} is missing; look at the output, then run with --update-golden"
        assert path.read_text() == text


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(bool(request.config.getoption("--update-golden")))
