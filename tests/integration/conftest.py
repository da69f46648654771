"""What several modules compare with."""

from __future__ import annotations

import pytest
from one_text import AGGREGATED, HEAD, ROOMY, texts
from pipelines import SMOLLM2, serving


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one worker with room for everything answers."""
    if not SMOLLM2.is_dir():
        pytest.skip("no SmolLM2 folder: run `make model`")
    with serving(HEAD + ROOMY + AGGREGATED, tmp_path_factory.mktemp("roomy")) as pipeline:
        return texts(pipeline)
