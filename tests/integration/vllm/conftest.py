"""Real vLLM servers, each started once, when the first test needs it. `make test-vllm` installs and runs them.

A server with routed experts (Model Runner V2), two with dense models for updates of weights, and, in files of their
own, one for adapters and one that sends logits. Each takes some 15 seconds to start and 3 GB. Logs: VLLM_DIR/run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.vllm_stack import VllmServer
from support.vllm_truth import Truth


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest` alone installs no gigabytes: `VLLM_DIR` says where `make test-vllm` put them."""
    if "VLLM_DIR" not in os.environ:
        here = Path(__file__).parent
        items[:] = [item for item in items if here not in item.path.parents]


@pytest.fixture(scope="session")
def vllm_dir() -> Path:
    return Path(os.environ["VLLM_DIR"])


@pytest.fixture(scope="session")
def truth(vllm_dir: Path) -> Iterator[Truth]:
    """Forward passes of the models that the servers serve."""
    asked = Truth(vllm_dir)
    yield asked
    asked.close()


@pytest.fixture(scope="session")
def moe(vllm_dir: Path) -> Iterator[VllmServer]:
    """moe_a with routed experts. Requests must not have top_k, top_p or min_p."""
    with VllmServer(vllm_dir, "moe_a", routed=True) as server:
        yield server


@pytest.fixture(scope="session")
def dense_pair(vllm_dir: Path) -> Iterator[list[VllmServer]]:
    """Two servers that begin with dense_a."""
    servers = [VllmServer(vllm_dir, "dense_a", name=f"dense_{number}") for number in range(2)]
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.stop()
