"""The real Dynamo frontend, started once for all tests here. `make test-dynamo` installs it and runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.dynamo_stack import DynamoStack, Worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest` alone installs no hundreds of megabytes: `DYNAMO_DIR` says where `make test-dynamo` put them."""
    if "DYNAMO_DIR" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]


@pytest.fixture(scope="session")
def dynamo_stack() -> Iterator[DynamoStack]:
    """The frontend with one stand-in engine behind it."""
    with DynamoStack(Path(os.environ["DYNAMO_DIR"])) as stack:
        yield stack


@pytest.fixture
def worker(dynamo_stack: DynamoStack) -> Iterator[Worker]:
    """The engine behind the frontend, with its defaults and an empty record."""
    engine = dynamo_stack.workers[0]
    engine.control()
    engine.forget()
    yield engine
    engine.control()


@pytest.fixture
def frontend(dynamo_stack: DynamoStack) -> Iterator[httpx.Client]:
    """A plain HTTP client of the frontend."""
    with httpx.Client(base_url=dynamo_stack.url, timeout=60.0, trust_env=False) as client:
        yield client
