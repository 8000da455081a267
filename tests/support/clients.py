"""Fixtures of tests that run every client against a server of raw bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.driver import KINDS, Driver, Kind
from support.raw_server import RawServer


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def connect(kind: Kind, server: RawServer) -> Iterator[Callable[..., Driver]]:
    """A function that makes a client of the server; it is closed after the test."""
    with ExitStack() as stack:

        def make(url: str | None = None, **options: Any) -> Driver:
            return stack.enter_context(Driver(kind, url or server.url, **options))

        yield make
