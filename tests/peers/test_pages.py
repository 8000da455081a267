"""The examples of `docs/integrations.md` for renderers and verifiers run as they stand there."""

from __future__ import annotations

import ast
import asyncio
import doctest
import re
from pathlib import Path
from typing import Any

import openai
import pytest
import renderers
from verifiers.v1.clients import TrainClientConfig

from dynamo_tito import simulator
from peers.conversations import converse, judge_trace, truth_of
from support.qwen import VOCAB_SIZE, QwenTokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()


def code(section: str) -> str:
    """The statements of a section."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (found,) = [part for part in text if part.startswith(section + "\n")]
    blocks = re.findall(r"```python\n(.*?)```", found, re.DOTALL)
    parser = doctest.DocTestParser()
    return "".join(example.source for block in blocks for example in parser.get_examples(block))


async def run(source: str, names: dict[str, Any]) -> None:
    """Run statements, of which some await."""
    outcome = eval(compile(source, "docs/integrations.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if outcome is not None:
        await outcome


def test_renderers(tokenizer: QwenTokenizer) -> None:
    renderer = renderers.Qwen3Renderer(tokenizer, renderers.Qwen3RendererConfig(enable_thinking=False))
    messages = [{"role": "user", "content": "hello"}]

    with simulator.running(vocab_size=VOCAB_SIZE) as engine:
        names: dict[str, Any] = {"renderer": renderer, "messages": messages, "model": engine.config.model}

        async def main() -> None:
            async with openai.AsyncOpenAI(base_url=engine.url + "/v1", api_key="none") as client:
                names["client"] = client
                await run(code("renderers"), names)

        asyncio.run(main())
        assert engine.last.path == "/v1/chat/completions"
        assert names["result"]["completion_ids"] == engine.last.samples[0].token_ids.tolist()


@pytest.mark.usefixtures("tokenizer")
def test_verifiers() -> None:
    def sampling(_: int) -> dict[str, Any]:
        return {"max_tokens": 5}

    with simulator.running(vocab_size=VOCAB_SIZE) as engine:
        names: dict[str, Any] = {"url": engine.url}
        asyncio.run(run(code("verifiers"), names))
        theirs = TrainClientConfig(base_url=engine.url + "/v1", renderer_model_name="built-here")
        own = names["config"].model_copy(update={"renderer_model_name": "built-here"})
        try:
            for config, path in ((theirs, "/v1/chat/completions"), (own, "/inference/v1/generate")):
                engine.forget()
                trace = asyncio.run(converse(config, engine.config.model, 2, sampling))
                assert {record.path for record in engine.requests} == {path}
                judge_trace(trace, *truth_of([record.samples[0] for record in engine.requests if record.samples]))
        finally:
            names["installed"].uninstall()
