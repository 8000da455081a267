"""renderers and verifiers as they are, over this library: one ``install`` each, and the rest of the code stays.

python -m examples.drop_in [--url URL --model NAME --tokenizer NAME --transport NAME] [--turns 3]

Without --url an embedded Dynamo answers, and a tokenizer with the words that it says is made. Needs
``pip install 'dynamo-tito[verifiers]' transformers``.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack

import renderers
import verifiers.v1 as vf
from openai import AsyncOpenAI
from renderers.base import load_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verifiers.v1 import graph
from verifiers.v1.clients import TrainClientConfig, resolve_client
from verifiers.v1.dialects.chat import ChatDialect, message_to_wire

from dynamo_tito import simulator
from dynamo_tito.integrations import renderers as tito_renderers
from dynamo_tito.integrations import verifiers as tito_verifiers

RENDERER = renderers.Qwen3RendererConfig(enable_thinking=False)
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
ENDS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")
WORDS = ("the", "a", "river", "stone", "light", "falls", "over", "under", "slowly", "again", "and", "no", "one", "sees")


def save_tokenizer(folder: str) -> int:
    """Save a tokenizer that has bytes, the words that the embedded engine says, and its ends; the size."""
    texts = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True), *(f"Ġ{word}" for word in WORDS), *ENDS]
    tokenizer = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(texts)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*MARKS, *ENDS])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ENDS[1]).save_pretrained(folder)
    return len(texts)


async def with_renderers(url: str, arguments: argparse.Namespace) -> None:
    """One answer by ``renderers.client.generate``."""
    renderer = renderers.create_renderer(load_tokenizer(arguments.tokenizer), RENDERER)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        result = await renderers.client.generate(
            client=client,
            renderer=renderer,
            messages=[{"role": "user", "content": "What do you see?"}],
            model=arguments.model,
            sampling_params={"max_tokens": 24},
        )
    rows = result["routed_experts"]
    print(f"renderers: {result['content']!r}")
    print(f"           {len(result['completion_ids'])} tokens, routed experts {rows and rows['shape']}")


async def with_verifiers(url: str, arguments: argparse.Namespace) -> None:
    """A conversation by the client that verifiers makes of its configuration; its trace is what a trainer gets."""
    config = TrainClientConfig(base_url=f"{url}/v1", renderer_model_name=arguments.tokenizer, renderer=RENDERER)
    trace = vf.Trace(
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        task=vf.TraceTask(type="Task", data=vf.TaskData(idx=0, prompt="look")),
    )
    client = resolve_client(config)
    messages: list[vf.Message] = [vf.UserMessage(content="What do you see?")]
    try:
        for _ in range(arguments.turns):
            turn = graph.prepare_turn(trace, messages, [])
            body = {"model": arguments.model, "messages": [message_to_wire(message) for message in messages]}
            sampling = vf.SamplingConfig(max_tokens=24)
            response = await client.get_response(ChatDialect(), body, sampling, session_id=trace.id, turn=turn)
            turn.commit(response)
            messages = [*messages, response.message, vf.UserMessage(content="And then?")]
    finally:
        await client.close()
    (branch,) = trace.branches
    rows = branch.routed_experts
    print(
        f"verifiers: {arguments.turns} turns, {len(branch.token_ids)} tokens, {sum(branch.sampled_mask)} of them "
        f"sampled, routed experts {rows if rows is None else [*rows.shape]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the server")
    parser.add_argument("--model", default="tito-model")
    parser.add_argument("--tokenizer", help="of the model: a name or a directory")
    parser.add_argument("--transport", default="dynamo_chat", help="the route: vllm_generate for vLLM")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url
        if url is None:
            arguments.tokenizer = stack.enter_context(tempfile.TemporaryDirectory())
            size = save_tokenizer(arguments.tokenizer)
            url = stack.enter_context(simulator.running(backend="dynamo", vocab_size=size, eos_rate=0.05)).url
        stack.enter_context(tito_renderers.install(transport=arguments.transport))
        asyncio.run(with_renderers(url, arguments))
        stack.enter_context(tito_verifiers.install(renderer_transport=arguments.transport))
        asyncio.run(with_verifiers(url, arguments))


if __name__ == "__main__":
    main()
