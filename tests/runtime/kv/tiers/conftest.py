"""What tests of several tiers share."""

from __future__ import annotations

import pytest

from dynamoc.runtime.kv.tiers.device import HostDevice


@pytest.fixture(params=[False, True], ids=["pages", "device"])
def by_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether checksums are taken on the device, as GPUs do, and not of pages."""
    monkeypatch.setattr(HostDevice, "takes_digests", request.param)
    return bool(request.param)
