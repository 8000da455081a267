"""Fixtures for users' tests, registered with pytest by the package's entry point.

`tito_engine` starts embedded engines and stops them after the test:

    def test_rollout(tito_engine):
        engine = tito_engine(backend="dynamo", prompt_start="trim")
        client = tito.connect(engine.url, backend="dynamo", model=engine.config.model)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["tito_engine"]


@pytest.fixture
def tito_engine() -> Iterator[Callable[..., Engine]]:
    """A function that starts an engine with the given settings (`EngineConfig`), on a free port, in its own thread."""
    # Imported here: a plugin is loaded by every test run of an environment that has the package.
    from . import running  # noqa: PLC0415

    with ExitStack() as stack:

        def start(**settings: Any) -> Engine:
            return stack.enter_context(running(**settings))

        yield start
