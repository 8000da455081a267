"""Other frameworks over this library, in the environments of `.peers`. `make test-peers` makes them and runs these."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest

from support.qwen import VOCAB_SIZE, QwenTokenizer


def pytest_ignore_collect() -> bool | None:
    """`pytest` alone installs no frameworks: `PEERS` says that this environment has them."""
    return None if "PEERS" in os.environ else True


@pytest.fixture
def tokenizer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> QwenTokenizer:
    """The tokenizer that renderers loads for every model: one that is built here. Its parameter is its size."""
    renderers = importlib.import_module("renderers")
    base = importlib.import_module("renderers.base")
    made = QwenTokenizer(getattr(request, "param", VOCAB_SIZE))

    def create(tokenizer: Any, *_: Any, **__: Any) -> Any:
        return renderers.Qwen3Renderer(tokenizer, renderers.Qwen3RendererConfig(enable_thinking=False))

    monkeypatch.setattr(base, "load_tokenizer", lambda *_, **__: made)
    monkeypatch.setattr(renderers, "create_renderer", create)
    return made
