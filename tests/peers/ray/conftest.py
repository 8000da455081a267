"""One local Ray cluster for all tests of this folder; it ends with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tenacity import retry, retry_if_exception_message, stop_after_attempt

HERE = Path(__file__).parent
# Without the extra dynamo-tito[ray] nothing of this folder is imported.
collect_ignore = [] if find_spec("ray") is not None else [path.name for path in HERE.glob("test_*.py")]

STORE = 512 << 20
"""Bytes of the object store."""

TESTS = HERE.parents[1]


# Ray gives its processes 30 seconds to start, which no setting changes; a busy machine may need longer.
@retry(stop=stop_after_attempt(3), retry=retry_if_exception_message(match="The current node timed out"), reraise=True)
def start(ray: Any) -> None:
    """Start a cluster whose workers import the package and the tests from where this process does."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=4,
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    import ray  # noqa: PLC0415 - it is there once a test asks for it

    start(ray)
    try:
        yield ray
    finally:
        ray.shutdown()
