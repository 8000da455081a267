"""What runs in the environments of `.peers`: other frameworks over this library. `make test-peers` makes and runs them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.qwen import QwenTokenizer

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest` alone installs no frameworks: `PEERS` says that this environment has them."""
    if "PEERS" not in os.environ:
        items[:] = [item for item in items if HERE not in item.path.parents]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A file is imported only where its frameworks are."""
    needs = {"test_prime_rl.py": "verifiers", "test_rollouts.py": "verifiers", "test_renderers.py": "renderers"}
    wanted = needs.get(collection_path.name)
    return True if wanted is not None and importlib.util.find_spec(wanted) is None else None


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[QwenTokenizer]:
    """The tokenizer that renderers loads for every model: one that is built here, because nothing is downloaded."""
    import renderers
    import renderers.base

    made = QwenTokenizer()

    def create(tokenizer: Any, config: Any = None, **_: Any) -> Any:
        return renderers.Qwen3Renderer(tokenizer, renderers.Qwen3RendererConfig(enable_thinking=False))

    monkeypatch.setattr(renderers.base, "load_tokenizer", lambda *_, **__: made)
    monkeypatch.setattr(renderers, "create_renderer", create)
    yield made
