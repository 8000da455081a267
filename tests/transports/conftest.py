"""Every client against a server of raw bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.captures import FOLDER
from support.clients import connect, kind, server

__all__ = ["connect", "kind", "server"]


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], bytes]:
    """The bytes of a recorded answer."""
    return lambda name: (FOLDER / f"{name}.json").read_bytes()
