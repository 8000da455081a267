"""``generate`` beside theirs: the same result, and the same errors, over both kinds of client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.metadata
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import pytest
import renderers as framework
import renderers.client

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.integrations import renderers
from dynamo_tito.simulator import Engine, Fault, FaultKind
from support.qwen import VOCAB_SIZE, QwenTokenizer

THEIRS = framework.client.generate
NEW = not importlib.metadata.version("renderers").startswith("0.1.12")
MESSAGES = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
CLIENTS = ["openai", "tito"]

#: Servers that theirs reads as well.
READ_BY_BOTH: dict[str, dict[str, Any]] = {
    "prime": {"backend": "prime"},
    "vllm-0.31": {"backend": "vllm", "vllm_version": "0.31"},
    "dynamo": {"backend": "dynamo"},
}


@pytest.fixture
def renderer(tokenizer: QwenTokenizer) -> Any:
    return framework.Qwen3Renderer(tokenizer, framework.Qwen3RendererConfig(enable_thinking=False))


@contextlib.asynccontextmanager
async def opened(kind: str, url: str, **options: Any) -> AsyncIterator[Any]:
    if kind == "openai":
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            yield client
    else:
        async with tito.AsyncTitoClient(url, model=None, http="native", retries=None, **options) as client:
            yield client


async def ask(kind: str, engine: Engine, renderer: Any, **arguments: Any) -> dict[str, Any]:
    async with opened(kind, engine.url) as client:
        given = {"messages": MESSAGES, "tools": TOOLS, "sampling_params": {"max_tokens": 9, "seed": 3}} | arguments
        result: dict[str, Any] = await renderers.generate(
            client=client, renderer=renderer, model=engine.config.model, **given
        )
        return result


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """Comparable: arrays as lists with their dtype, base64 as text."""
    shown = dict(result)
    shown.pop("request_id")
    for name, value in shown.items():
        if isinstance(value, np.ndarray):
            shown[name] = (str(value.dtype), value.tolist())
    routed = shown["routed_experts"]
    if isinstance(routed, dict):
        shown["routed_experts"] = routed | {
            "data": bytes(routed["data"] if isinstance(routed["data"], memoryview) else routed["data"].encode())
        }
    return shown


async def call(function: Any, engine: Engine, renderer: Any, params: dict[str, Any]) -> dict[str, Any]:
    async with opened("openai", engine.url) as client:
        result: dict[str, Any] = await function(
            client=client, renderer=renderer, messages=MESSAGES, model=engine.config.model, tools=TOOLS,
            sampling_params=params,
        )  # fmt: skip
    return result


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("server", READ_BY_BOTH)
def test_the_result_is_theirs(server: str, kind: str, renderer: Any) -> None:
    params = {"max_tokens": 9, "seed": 3}
    with simulator.running(vocab_size=VOCAB_SIZE, eos_rate=0.1, seed=5, **READ_BY_BOTH[server]) as engine:
        ours = asyncio.run(ask(kind, engine, renderer, sampling_params=params))
        theirs = asyncio.run(call(THEIRS, engine, renderer, params))
        sent = [record.json() for record in engine.requests]
        routing = engine.last.samples[0].routed_experts
    assert list(ours) == list(theirs)
    assert sent[0] == sent[1]
    payload = ours["routed_experts"]
    rows = np.frombuffer(base64.b64decode(payload["data"]), payload.get("dtype", "uint8")).reshape(payload["shape"])
    assert np.array_equal(rows, routing)
    if server == "vllm-0.31":
        assert isinstance(theirs["routed_experts"], str)  # a file, which verifiers cannot read
        ours["routed_experts"] = theirs["routed_experts"]
    assert plain(ours) == plain(theirs)


def body_with_heads(rng: np.random.Generator, size: int, *, packed: bool) -> bytes:
    """An answer with ``size`` + 2 candidates and the sampled token, from distributions, some of which have ties."""
    entries: list[dict[str, Any]] = []
    ids: list[int] = []
    for _ in range(30):
        scores = rng.normal(size=40)
        if size > 1 and rng.random() < 0.3:  # the last of the head ties with the first behind it
            order = np.argsort(-scores)
            scores[order[size]] = scores[order[size - 1]]
        logprobs = scores - np.log(np.exp(scores).sum())
        sampled = int(rng.integers(0, 40))
        listed = [sampled, *[int(token) for token in np.argsort(-logprobs, kind="stable")[: size + 2]]]
        found = list(dict.fromkeys(listed))
        ids.append(sampled)
        top = [{"token_id": token, "logprob": float(np.float32(logprobs[token]))} for token in found]
        entries.append({"token_id": sampled, "logprob": float(np.float32(logprobs[sampled])), "top_logprobs": top})
    choice: dict[str, Any] = {"index": 0, "token_ids": ids, "finish_reason": "length", "logprobs": {"content": entries}}
    if packed:
        flat = [one for entry in entries for one in entry["top_logprobs"]]
        raw = np.array([one["token_id"] for one in flat], "<u4").tobytes()
        raw += np.array([one["logprob"] for one in flat], "<f4").tobytes()
        offsets = np.cumsum([0, *(len(entry["top_logprobs"]) for entry in entries)]).tolist()
        compact = {"data": base64.b64encode(raw).decode(), "format": "u32-f32-le-v1", "offsets": offsets}
        choice |= {"logprobs": None, "compact_logprobs": compact | {"num_top_logprobs": size + 3}}
    return json.dumps({"request_id": "r", "choices": [choice]}, separators=(",", ":")).encode()


@pytest.mark.skipif(not NEW, reason="heads came with renderers 0.1.13")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_heads_are_theirs(size: int, packed: bool, renderer: Any) -> None:
    rng = np.random.default_rng(size)
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        outcomes = []
        for _ in range(10):
            body = body_with_heads(rng, size, packed=packed)
            engine.inject(*[Fault(kind="error_body", phase="sampled", status=200, body=body)] * 2)
            params = {"logprobs": size, "max_tokens": 30}
            pair: list[Any] = []
            for function in (renderers.generate, THEIRS):
                try:
                    result: Any = plain(asyncio.run(call(function, engine, renderer, params)))
                except framework.MalformedGenerateResponseError as error:
                    result = str(error)
                pair.append(result)
            assert pair[0] == pair[1]
            outcomes.append(type(pair[0]))
        assert outcomes == [dict] * 10


@pytest.mark.parametrize("kind", CLIENTS)
def test_routed_experts_are_the_text_of_the_wire(kind: str, renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        result = asyncio.run(ask(kind, engine, renderer))
        assert isinstance(result["routed_experts"]["data"], memoryview)
        rows = np.frombuffer(base64.b64decode(result["routed_experts"]["data"]), np.uint8)
        assert np.array_equal(rows, engine.last.samples[0].routed_experts.astype(np.uint8).ravel())


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_session_travels_as_dynamo_takes_it(kind: str, renderer: Any) -> None:
    with simulator.running(vocab_size=VOCAB_SIZE) as engine:
        given = {"extra_headers": {"X-Session-ID": "s1", "x-other": "o"}, "cache_salt": "v7", "priority": 3}
        asyncio.run(ask(kind, engine, renderer, transport="dynamo_chat", **given))
        headers, body = engine.last.headers, engine.last.json()
    assert (headers["x-dynamo-session-id"], headers["x-other"]) == ("s1", "o")
    assert "x-session-id" not in headers
    assert (body["nvext"]["cache_salt"], body["nvext"]["agent_hints"]) == ("v7", {"priority": 3})


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(("status", "error"), [
    (400, openai.BadRequestError), (401, openai.AuthenticationError), (404, openai.NotFoundError),
    (429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.InternalServerError),
])  # fmt: skip
def test_refusals_are_openais(kind: str, status: int, error: type[openai.APIStatusError], renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        engine.inject(Fault(kind="status", status=status, message="the context is too long"))
        with pytest.raises(error, match="the context is too long") as raised:
            asyncio.run(ask(kind, engine, renderer))
        assert raised.value.status_code == status
        assert len(engine.requests) == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_is_gone(kind: str, renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        pass
    with pytest.raises(openai.APIConnectionError):
        asyncio.run(ask(kind, engine, renderer))


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("given", [None, 4])
def test_prompts_that_are_too_long_are_theirs(kind: str, given: int | None, renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE, max_model_len=8) as engine:
        with pytest.raises(framework.OverlongPromptError, match="exceeds maximum context length") as raised:
            asyncio.run(ask(kind, engine, renderer, max_prompt_len=given))
        assert engine.requests == []
    assert raised.value.prompt_len > 8
    assert raised.value.max_prompt_len <= (given or 8)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(kind="short_entries"), "does not match logprob count"),
        (Fault(kind="error_body", phase="sampled", body=b'{"choices":[{"token_ids":[1]}]}'), "must be an object"),
        (Fault(kind="error_body", phase="sampled", body=b'{"choices":[{"token_ids":[1],"logprobs":{"content":[{"token":'
               b'"token_id:1","logprob":-9999.0}]}}]}'), "does not contain sampling evidence"),
    ],
)  # fmt: skip
def test_refused_answers_have_their_words(kind: str, fault: Fault, says: str, renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        engine.inject(fault)
        with pytest.raises(framework.MalformedGenerateResponseError, match=says) as raised:
            asyncio.run(ask(kind, engine, renderer))
    assert any(note.startswith("dynamo-tito: ") for note in raised.value.__notes__)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("fault", ["positive_logprobs", "wrong_rows", "no_rows"])
def test_what_theirs_takes_is_refused_with_our_words(kind: str, fault: FaultKind, renderer: Any) -> None:
    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        engine.inject(Fault(kind=fault, by=-1) if fault == "wrong_rows" else Fault(kind=fault))
        with pytest.raises(framework.MalformedGenerateResponseError, match=r"at choices|routed experts"):
            asyncio.run(ask(kind, engine, renderer, require_routed_experts=True))


@pytest.fixture
def pictures(renderer: Any) -> Any:
    """A renderer that leaves pictures to the server."""

    class Pictures(type(renderer)):  # type: ignore[misc]
        supports_process_multimodal = True

        def render(self, *arguments: Any, process_multimodal: bool, **options: Any) -> Any:  # noqa: ARG002 - no pictures
            return super().render(*arguments, **options)

    return Pictures(QwenTokenizer(), framework.Qwen3RendererConfig(enable_thinking=False))


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WITH_PICTURE = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "?"}]}]


def test_pictures_travel_on_one_route_only(renderer: Any, pictures: Any) -> None:
    given = {"messages": WITH_PICTURE, "process_multimodal": False}
    with simulator.running(vocab_size=VOCAB_SIZE) as engine:
        with pytest.raises(NotImplementedError, match="vllm_generate"):
            asyncio.run(ask("openai", engine, pictures, transport="dynamo_chat", **given))
        with pytest.raises(NotImplementedError, match="process_multimodal"):
            asyncio.run(ask("openai", engine, renderer, **given))
        assert engine.requests == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_content_parts_are_sent_as_theirs_are_and_the_expanded_prompt_is_read(kind: str, pictures: Any) -> None:
    entries = [{"token": "token_id:300", "logprob": -0.5}, {"token": "token_id:301", "logprob": -0.25}]
    choice = {"index": 0, "token_ids": [300, 301], "finish_reason": "length", "logprobs": {"content": entries}}
    expanded = {"prompt_token_ids": [9, *[77] * 5, 9], "mm_placeholders": {"image": [{"offset": 1, "length": 5}]}}
    body = json.dumps({"request_id": "r", "choices": [choice], **expanded}).encode()
    given = {"messages": WITH_PICTURE, "sampling_params": {"max_tokens": 2}, "process_multimodal": False}

    async def theirs(engine: Engine) -> dict[str, Any]:
        async with opened("openai", engine.url) as client:
            result: dict[str, Any] = await THEIRS(
                client=client, renderer=pictures, model=engine.config.model, tools=TOOLS, **given
            )
            return result

    with simulator.running(backend="prime", vocab_size=VOCAB_SIZE) as engine:
        engine.inject(*[Fault(kind="error_body", phase="sampled", body=body)] * 2)
        one, other = asyncio.run(ask(kind, engine, pictures, **given)), asyncio.run(theirs(engine))
        sent = [record.json() for record in engine.requests]
    assert sent[0] == sent[1]
    assert sent[0]["content_parts"]
    assert one["prompt_ids"] == expanded["prompt_token_ids"]
    assert plain(one) == plain(other)


def test_installing_is_undone() -> None:
    before = framework.client.generate
    with renderers.install(transport="dynamo_chat") as outer:
        assert framework.client.generate is not before
        inner = renderers.install()
        with pytest.raises(RuntimeError, match="replaced again"):
            outer.uninstall()
        inner.uninstall()
        inner.uninstall()
    assert framework.client.generate is before
    with pytest.raises(TypeError, match="transprot"):
        renderers.install(transprot="dynamo_chat")
