"""The rig of the suites over every transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pool_process import VARIANTS, missing
from transport_rig import Processes, Rig


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.end()


@pytest.fixture(params=VARIANTS)
def rig(request: pytest.FixtureRequest, processes: Processes) -> Iterator[Rig]:
    if reason := missing(request.param):
        pytest.skip(reason)
    made = Rig(request.param, processes)
    yield made
    made.end()
