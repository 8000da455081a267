"""Other frameworks over this library, in the environments of `.peers`. `make test-peers` makes them and runs these."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from support.qwen import VOCAB_SIZE, QwenTokenizer

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest` alone installs no frameworks: `PEERS` says that this environment has them."""
    if "PEERS" not in os.environ:
        items[:] = [item for item in items if HERE not in item.path.parents]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """A file is imported only where its frameworks are."""
    needs = {
        "test_real_servers.py": "verifiers",
        "test_pages.py": "verifiers",
        "test_rollouts.py": "verifiers",
        "test_renderers.py": "renderers",
    }
    wanted = needs.get(collection_path.name)
    return True if wanted is not None and importlib.util.find_spec(wanted) is None else None


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> QwenTokenizer:
    """The tokenizer that renderers loads for every model: one that is built here. Its parameter is its size."""
    renderers = pytest.importorskip("renderers")
    base = pytest.importorskip("renderers.base")
    made = QwenTokenizer(getattr(request, "param", VOCAB_SIZE))

    def create(tokenizer: Any, *_: Any, **__: Any) -> Any:
        return renderers.Qwen3Renderer(tokenizer, renderers.Qwen3RendererConfig(enable_thinking=False))

    monkeypatch.setattr(base, "load_tokenizer", lambda *_, **__: made)
    monkeypatch.setattr(renderers, "create_renderer", create)
    return made
