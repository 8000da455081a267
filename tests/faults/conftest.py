"""Every client, against faults between it and a server."""

from __future__ import annotations

import pytest

from dynamo_tito._http import httpx, native
from support.clients import connect, kind, server

__all__ = ["connect", "kind", "server"]


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are counted here, and a machine may be so slow that idle ones would be given up."""
    for module in (httpx, native):
        monkeypatch.setattr(module, "KEEPALIVE", 600.0)
