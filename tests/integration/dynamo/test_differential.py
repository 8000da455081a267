"""The embedded engine and the real Dynamo answer the same requests with the same documents.

Both sample with the same hash model, so what they say must agree in every value; only ids, times and the order of keys
in maps are their own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.simulator import Engine
from support.cases import text, written
from support.dynamo_stack import DynamoStack, Worker
from support.events import documents

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
PROMPT = [1, 2, 300, 4_000, 31_999]
NAMED = ["completion_token_ids", "routed_experts", "stop_reason", "detailed_finish_reason"]
ALL = [*NAMED, "engine_data", "worker_id", "timing", "prompt_logprobs"]
# Their own, by name; maps whose keys come in no stable order.
VOLATILE = frozenset(
    (
        "id", "request_id", "created", "instance_id", "tcp", "prefill_worker_id", "decode_worker_id", "system_url",
        "secs", "nanos",
    )
)  # fmt: skip
TIMING = frozenset(
    ("request_received_ms", "prefill_wait_time_ms", "prefill_time_ms", "ttft_ms", "total_time_ms", "kv_hit_rate")
)


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    nvext = {"token_data": PROMPT, "extra_fields": ["engine_data"]} | fields.pop("nvext", {})
    message = {"role": "user", "content": "(tokens)"}
    return CHAT, {"model": "tito-model", "messages": [message], "max_tokens": 3, "nvext": nvext, **fields}


def completions(**fields: Any) -> tuple[str, dict[str, Any]]:
    nvext = {"extra_fields": ["engine_data"]} | fields.pop("nvext", {})
    return COMPLETIONS, {"model": "tito-model", "prompt": PROMPT, "max_tokens": 3, "nvext": nvext, **fields}


def generate(params: dict[str, Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    return GENERATE, {
        "model": "tito-model",
        "token_ids": PROMPT,
        "sampling_params": {"max_tokens": 3, **params},
        **fields,
    }


REQUESTS: dict[str, tuple[str, Any]] = {
    "chat": chat(),
    "chat one token": chat(max_tokens=1, logprobs=True, nvext={"extra_fields": ALL}),
    "chat logprobs": chat(logprobs=True, top_logprobs=4),
    "chat logprobs without a number": chat(logprobs=True),
    "chat no alternatives": chat(logprobs=True, top_logprobs=0),
    "chat alternatives without logprobs": chat(top_logprobs=2),
    "chat everything": chat(logprobs=True, prompt_logprobs=2, nvext={"extra_fields": ALL}),
    "chat named fields": chat(nvext={"extra_fields": NAMED}),
    "chat prompt logprobs 0": chat(prompt_logprobs=0),
    "chat no fields": chat(nvext={"extra_fields": []}),
    "chat unknown fields": chat(nvext={"extra_fields": ["nope", "engine_data"]}),
    "chat null fields": chat(nvext={"extra_fields": None}),
    "chat empty prompt": chat(nvext={"token_data": []}),
    "chat n": chat(n=2, logprobs=True, nvext={"extra_fields": ["engine_data", "routed_experts"]}),
    "chat max_completion_tokens": chat(max_tokens=None, max_completion_tokens=2),
    "chat both limits": chat(max_tokens=4, max_completion_tokens=2),
    "chat seed": chat(seed=7),
    "chat nulls": chat(temperature=None, stop=None, seed=None, logprobs=None),
    "chat hints": chat(nvext={"cache_salt": "s", "agent_hints": {"priority": -5, "osl": 10}}),
    "chat float priority": chat(nvext={"agent_hints": {"priority": 1.5}}),
    "chat unknown hint": chat(nvext={"agent_hints": {"zzz": 1}}),
    "chat pinned": chat(nvext={"backend_instance_id": 5}),
    "chat prompt start": chat(nvext={"routed_experts_prompt_start": 2}),
    "chat prompt start above": chat(routed_experts_prompt_start=2),
    "chat unknown": chat(foo=1),
    "chat no model": (CHAT, {"messages": [{"role": "user", "content": "x"}]}),
    "chat other model": chat(model="nope"),
    "chat other model, n": chat(model="nope", n=0),
    "chat model null": chat(model=None),
    "chat no messages": chat(messages=[]),
    "chat without messages": (CHAT, {"model": "tito-model"}),
    "chat logprobs a number": chat(logprobs=1),
    "chat top_logprobs 21": chat(top_logprobs=21),
    "chat temperature 2.5": chat(temperature=2.5),
    "chat temperature a string": chat(temperature="hot"),
    "chat n 129": chat(n=129),
    "chat max_tokens 0": chat(max_tokens=0),
    "chat max_tokens negative": chat(max_tokens=-1),
    "chat stream_options": chat(stream_options={"include_usage": True}),
    "chat tools empty": chat(tools=[]),
    "chat id too big": chat(nvext={"token_data": [1, 32_000]}),
    "chat id negative": chat(nvext={"token_data": [1, -2]}),
    "chat id a float": chat(nvext={"token_data": [1, 1.5]}),
    "chat ids a string": chat(nvext={"token_data": "1"}),
    "chat extra_fields a string": chat(nvext={"extra_fields": "engine_data"}),
    "completions": completions(),
    "completions one token": completions(max_tokens=1, logprobs=1, nvext={"extra_fields": ALL}),
    "completions logprobs": completions(logprobs=3),
    "completions logprobs 0": completions(logprobs=0),
    "completions everything": completions(logprobs=1, prompt_logprobs=1, nvext={"extra_fields": ALL}),
    "completions echo": completions(echo=True, logprobs=1),
    "completions n": completions(n=2, logprobs=1),
    "completions n with ids": completions(n=2, nvext={"extra_fields": ["completion_token_ids"]}),
    "completions batch": completions(prompt=[[1, 2], [3, 4, 5]], logprobs=1, nvext={"extra_fields": []}),
    "completions two prompts": completions(prompt=[1, 2], nvext={"token_data": [9, 8, 7]}),
    "completions empty": completions(prompt=[]),
    "completions float id": completions(prompt=[1.5]),
    "completions negative id": completions(prompt=[-1]),
    "completions id too big": completions(prompt=[40_000]),
    "completions no prompt": (COMPLETIONS, {"model": "tito-model"}),
    "completions logprobs a bool": completions(logprobs=True),
    "completions max_completion_tokens": completions(max_completion_tokens=2),
    "completions chat fields": completions(add_generation_prompt=True),
    "completions prompt start": completions(routed_experts_prompt_start=2),
    "generate": generate({}),
    "generate logprobs": generate({"logprobs": 1}),
    "generate logprobs 0": generate({"logprobs": 0}),
    "generate logprobs 4": generate({"logprobs": 4}),
    "generate prompt logprobs": generate({"logprobs": 1, "prompt_logprobs": 2}),
    "generate prompt logprobs 0": generate({"prompt_logprobs": 0}),
    "generate trimmed": generate({"routed_experts_prompt_start": 3}),
    "generate trimmed too far": generate({"routed_experts_prompt_start": 5}),
    "generate trimmed by a string": generate({"routed_experts_prompt_start": "2"}),
    "generate n": generate({"n": 2, "logprobs": 1}),
    "generate seed": generate({"seed": 7}),
    "generate any id": generate({}, token_ids=[1, 40_000]),
    "generate without a model": (GENERATE, {"token_ids": [1], "sampling_params": {"max_tokens": 1}}),
    "generate unknown parameter": generate({"zzz": 1}, zzz=2),
    "generate other model": generate({}, model="nope"),
    "generate no ids": generate({}, token_ids=[]),
    "generate without ids": (GENERATE, {"model": "tito-model", "sampling_params": {}}),
    "generate without parameters": (GENERATE, {"model": "tito-model", "token_ids": [1]}),
    "generate float id": generate({}, token_ids=[1, 1.5]),
    "generate id too big": generate({}, token_ids=[2**32]),
    "generate max_tokens 0": generate({"max_tokens": 0}),
    "generate max_tokens negative": generate({"max_tokens": -1}),
    "generate logprobs a bool": generate({"logprobs": True}),
    "generate priority a float": generate({}, priority=1.5),
    "generate salt a number": generate({}, cache_salt=3),
    "generate stream": generate({}, stream=True),
    "generate stream null": generate({}, stream=None),
    "unknown route": ("/v1/nope", {}),
    "a list": (CHAT, []),
    "a list to generate": (GENERATE, []),
}


UPLOAD = {"kind": "generation_artifact", "contents": ["moe_routes", "selected_logprobs"], "mode": "inline_base64"}


def uploads(**upload: Any) -> dict[str, Any]:
    return {"metadata_upload": {key: value for key, value in {**UPLOAD, **upload}.items() if value is not ...}}


def native(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/generate", {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 3}, **fields}


#: What 1.6.1 refuses, in one piece.
REQUESTS_OF_1_7: dict[str, tuple[str, Any]] = {
    "chat artifact": chat(nvext={"extra_fields": [], **uploads()}),
    "chat artifact beside engine data": chat(nvext={"extra_fields": ALL, **uploads()}),
    "chat candidates": chat(logprobs=True, top_logprobs=3, nvext=uploads(contents=["topk_logprobs"])),
    "chat candidates without a number": chat(nvext=uploads(contents=["topk_logprobs"])),
    "chat ids alone": chat(nvext=uploads(contents=[])),
    "chat other kind": chat(nvext=uploads(kind="other")),
    "chat no mode": chat(nvext=uploads(mode=...)),
    "chat other mode": chat(nvext=uploads(mode="ftp")),
    "chat no contents": chat(nvext=uploads(contents=...)),
    "chat null contents": chat(nvext=uploads(contents=None)),
    "chat other contents": chat(nvext=uploads(contents=["routes"])),
    "chat contents twice": chat(nvext=uploads(contents=["moe_routes", "moe_routes"])),
    "chat unknown key": chat(nvext=uploads(nope=1)),
    "chat no destination": chat(nvext=uploads(mode="object_store")),
    "chat no kind": chat(nvext=uploads(kind=...)),
    "chat a list": chat(nvext={"metadata_upload": [1]}),
    "chat a URL": chat(nvext={"metadata_upload": {"url": "http://127.0.0.1:9/x"}}),
    "chat n of an artifact": chat(n=2, nvext={"extra_fields": [], **uploads()}),
    "chat stop": chat(stop=["a"], nvext=uploads()),
    "chat long": chat(max_tokens=60_000, nvext=uploads()),
    "completions artifact": completions(nvext=uploads()),
    "completions candidates": completions(logprobs=3, nvext=uploads(contents=["topk_logprobs", "moe_routes"])),
    "completions two prompts": completions(prompt=[PROMPT, PROMPT], nvext={"extra_fields": [], **uploads()}),
    "native": native(),
    "native routed": native(return_logprob=True, top_logprobs_num=2, return_routed_experts=True),
    "native named": native(rid="mine-1"),
    "native several": native(sampling_params={"n": 2}),
    "native no ids": ("/generate", {"sampling_params": {}}),
    "native other ids": native(input_ids="x"),
}
# What compresses the artifact is not the embedded engine's; the arrays are compared.
COMPRESSED = ("data_base64", "byte_count")
# The stand-in for SGLang's worker writes less than SGLang, and other decimals.
STAND_IN = ("text", "meta_info")


def unpacked(name: str, document: Any) -> Any:
    """An answer without what is the servers' own, and what is in its artifact."""
    if name.startswith("native"):
        return {key: value for key, value in document.items() if key not in STAND_IN}
    holders = [document["nvext"], document["nvext"].get("engine_data") or {}] if "nvext" in document else []
    found = []
    for holder in holders:
        upload = holder.get("metadata_upload", {})
        if "data_base64" in upload:
            data = tito.decode_artifact(base64.b64decode(upload["data_base64"]), require_logprobs=False)
            found.append(text(written(data, "int32")))
            holder["metadata_upload"] = {key: value for key, value in upload.items() if key not in COMPRESSED}
    return [comparable(document), found]


@pytest.fixture(scope="module")
def embedded_1_7() -> Iterator[Engine]:
    with simulator.running(default_max_tokens=6, dynamo_version="1.7", sglang_generate=True) as engine:
        engine.admin.weights = "unknown"
        yield engine


@pytest.mark.parametrize("name", REQUESTS_OF_1_7)
@pytest.mark.usefixtures("worker")
def test_same_request_same_answer_of_1_7(
    dynamo_stack: DynamoStack, frontend: httpx.Client, embedded_1_7: Engine, name: str
) -> None:
    if dynamo_stack.version.startswith("1.6."):
        pytest.skip("1.6 has neither artifacts nor SGLang's own answers in one piece")
    path, document = REQUESTS_OF_1_7[name]
    body, headers = compact(document), {"content-type": "application/json"}
    real = frontend.post(path, content=body, headers=headers)
    ours = httpx.post(embedded_1_7.url + path, content=body, headers=headers, trust_env=False)
    assert ours.status_code == real.status_code, (ours.text[:300], real.text[:300])
    if real.status_code >= 400:
        assert ours.text == real.text
    else:
        assert unpacked(name, ours.json()) == unpacked(name, real.json())


@pytest.mark.parametrize("upload", [UPLOAD, {"url": "http://127.0.0.1:9/x", "nope": 1}])
@pytest.mark.usefixtures("worker")
def test_1_6_takes_a_url_alone(
    dynamo_stack: DynamoStack, frontend: httpx.Client, embedded: Engine, upload: dict[str, Any]
) -> None:
    if not dynamo_stack.version.startswith("1.6."):
        pytest.skip("1.7 has artifacts")
    path, document = chat(nvext={"metadata_upload": upload})
    body, headers = compact(document), {"content-type": "application/json"}
    real = frontend.post(path, content=body, headers=headers)
    ours = httpx.post(embedded.url + path, content=body, headers=headers, trust_env=False)
    assert (ours.status_code, ours.text) == (real.status_code, real.text)


@pytest.fixture(scope="module")
def embedded() -> Iterator[Engine]:
    # As the stand-in engine is set up.
    with simulator.running(default_max_tokens=6) as engine:
        engine.admin.weights = "unknown"
        yield engine


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def comparable(value: Any, name: str = "") -> Any:
    """Keys keep their order, but in the maps that have none; what differs by nature is replaced by its type."""
    if isinstance(value, dict):
        items = [
            (key, comparable(item, key))
            if key not in VOLATILE | TIMING
            else (key, "number" if key in TIMING else type(item).__name__)
            for key, item in value.items()
        ]
        return sorted(items) if name in ("top_logprobs", "prompt_logprobs", "endpoints") else items
    if isinstance(value, list):
        return [comparable(item, name) for item in value]
    return (type(value).__name__, value)


@pytest.mark.parametrize("name", REQUESTS)
def test_same_request_same_answer(frontend: httpx.Client, worker: Worker, embedded: Engine, name: str) -> None:
    path, document = REQUESTS[name]
    body, headers = compact(document), {"content-type": "application/json", "x-request-id": "7" * 8}
    real = frontend.post(path, content=body, headers=headers)
    with httpx.Client(base_url=embedded.url, trust_env=False) as client:
        ours = client.post(path, content=body, headers=headers)
    assert ours.status_code == real.status_code, (ours.text[:300], real.text[:300])
    assert ours.headers.get("content-type") == real.headers.get("content-type")
    assert ours.headers.get("x-request-id") == real.headers.get("x-request-id")
    if real.status_code >= 400:
        assert ours.text == real.text
    else:
        assert comparable(ours.json()) == comparable(real.json())
        assert len(worker.requests()) >= 1


# The place of an error within a field that is not the last one is serde's own.
_PLACED = ("generate max_tokens negative", "generate logprobs a bool")
STREAMED: dict[str, tuple[str, Any]] = {
    **{
        name: asked
        for name, asked in REQUESTS.items()
        if isinstance(asked[1], dict) and "stream" not in asked[1] and name not in _PLACED
    },
    "chat usage": chat(stream_options={"include_usage": True}, logprobs=True),
    "chat usage in each": chat(n=2, stream_options={"include_usage": True, "continuous_usage_stats": True}),
    "chat usage in each alone": chat(stream_options={"continuous_usage_stats": True}),
    "chat annotations": chat(nvext={"annotations": ["formatted_prompt", "token_ids", "llm_metrics"]}),
    "completions usage": completions(n=2, stream_options={"include_usage": True}),
    "completions usage in each": completions(stream_options={"include_usage": True, "continuous_usage_stats": True}),
    "completions annotations": completions(nvext={"annotations": ["formatted_prompt", "token_ids"]}),
}


def by_choice(events: list[Any]) -> list[Any]:
    """What a stream says, one choice after the other: their chunks come in no order."""
    places = [
        (event.get("choices") or [{"index": 99}])[0]["index"] if isinstance(event, dict) else 99 for event in events
    ]
    return [comparable(events[at]) for at in sorted(range(len(events)), key=places.__getitem__)]


TOLD = ("content-type", "cache-control")


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.usefixtures("worker")
def test_same_request_same_stream(frontend: httpx.Client, embedded: Engine, name: str) -> None:
    path, document = STREAMED[name]
    body, headers = compact(document | {"stream": True}), {"content-type": "application/json"}
    real = frontend.post(path, content=body, headers=headers)
    ours = httpx.post(embedded.url + path, content=body, headers=headers, trust_env=False)
    assert ours.status_code == real.status_code, (ours.text[:300], real.text[:300])
    assert {key: ours.headers.get(key) for key in TOLD} == {key: real.headers.get(key) for key in TOLD}
    if real.status_code >= 400:
        assert ours.text == real.text
    else:
        assert by_choice(documents(ours.content)) == by_choice(documents(real.content))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
@pytest.mark.parametrize("body", [b"", b'{"model"', b"{]", b"nope", b"\xff"])
def test_what_is_no_json(frontend: httpx.Client, embedded: Engine, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    real = frontend.post(path, content=body, headers=headers)
    ours = httpx.post(embedded.url + path, content=body, headers=headers, trust_env=False)
    assert (ours.status_code, ours.headers["content-type"]) == (real.status_code, real.headers["content-type"])
    # The text is serde's. A client reads the class of the answer and its prefix.
    assert ours.text.partition(":")[0] == real.text.partition(":")[0]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
def test_wrong_method_and_media_type(frontend: httpx.Client, embedded: Engine, path: str) -> None:
    with httpx.Client(base_url=embedded.url, trust_env=False) as client:
        for method, headers in (("GET", {}), ("POST", {"content-type": "text/plain"})):
            real = frontend.request(method, path, headers=headers)
            ours = client.request(method, path, headers=headers)
            assert (ours.status_code, ours.content) == (real.status_code, real.content)
            assert ours.headers.get("content-type") == real.headers.get("content-type")


ENGINE_CALLS = [
    ("liveness_probe", {}),
    ("get_weight_version", {}),
    ("update_weights_from_disk", {"model_path": "/m"}),
    ("pause_generation", {"mode": "sideways"}),
    ("pause_generation", {"mode": "wait", "clear_cache": True}),
    ("pause_generation", None),
    ("update_weights_from_disk", {}),
    ("update_weights_from_disk", {"model_path": "/m"}),
    ("update_weights_from_disk", {"model_path": "/m", "weight_version": "7"}),
    ("get_weight_version", {}),
    ("update_weights_from_distributed", {"allow_unpaused": "yes"}),
    ("update_weights_from_distributed", {"allow_unpaused": True}),
    ("update_weights_from_distributed", {"weight_version": 9}),
    ("update_weights_from_tensor", {}),
    ("init_weights_update_group", {"world_size": 2}),
    ("destroy_weights_update_group", {}),
    ("set_weight_version", {}),
    ("set_weight_version", {"weight_version": "8"}),
    ("get_weight_version", {}),
    ("flush_cache", {}),
    ("abort_request", {}),
    ("abort_request", {"request_id": "r"}),
    ("resume_generation", {}),
    ("no_such_route", {}),
]


def test_administration_call_by_call(dynamo_stack: DynamoStack) -> None:
    with simulator.running() as engine, httpx.Client(trust_env=False) as client:
        for route, body in ENGINE_CALLS:
            arguments: dict[str, Any] = {} if body is None else {"json": body}
            real = client.post(f"{dynamo_stack.workers[0].system_url}/engine/{route}", **arguments)
            ours = client.post(f"{engine.system_url}/engine/{route}", **arguments)
            assert (ours.status_code, ours.text) == (real.status_code, real.text), route
            assert ours.headers["content-type"] == real.headers["content-type"]
        # The version that other tests expect.
        post = client.post(
            f"{dynamo_stack.workers[0].system_url}/engine/set_weight_version", json={"weight_version": "unknown"}
        )
        assert post.json()["status"] == "ok"


def test_discovery_health_and_models(dynamo_stack: DynamoStack) -> None:
    with simulator.running() as engine, httpx.Client(trust_env=False) as client:
        for real_url, our_url, path in (
            (dynamo_stack.rl_url, engine.rl_url, "/v1/rl/workers"),
            (dynamo_stack.rl_url, engine.rl_url, "/nope"),
            (dynamo_stack.url, engine.url, "/v1/rl/workers"),
            (dynamo_stack.url, engine.url, "/v1/models"),
            (dynamo_stack.url, engine.url, "/v1/models/tito-model"),
            (dynamo_stack.url, engine.url, "/v1/models/nope"),
            (dynamo_stack.url, engine.url, "/live"),
            (dynamo_stack.workers[0].system_url, engine.system_url, "/health"),
            (dynamo_stack.workers[0].system_url, engine.system_url, "/nope"),
        ):
            real, ours = client.get(real_url + path), client.get(our_url + path)
            assert ours.status_code == real.status_code, path
            assert ours.headers.get("content-type") == real.headers.get("content-type"), path
            if real.text.startswith("{"):
                assert comparable(ours.json()) == comparable(real.json()), path
            else:
                assert ours.content == real.content, path


@pytest.mark.parametrize("fields", [{}, {"ignore_eos": True}, {"min_tokens": 3}, {"ignore_eos": False}])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE])
@pytest.mark.usefixtures("worker")
def test_stop_tokens(frontend: httpx.Client, embedded: Engine, path: str, fields: dict[str, Any]) -> None:
    """With `ignore_eos` the OpenAI routes forget `stop_token_ids` too."""
    free = embedded.model.sample(PROMPT, 5, version="unknown").token_ids
    params = {"max_tokens": 5, "stop_token_ids": [int(free[1])], **fields}
    _, document = {CHAT: chat(**params), COMPLETIONS: completions(**params), GENERATE: generate(params)}[path]
    real = frontend.post(path, json=document)
    ours = httpx.post(embedded.url + path, json=document, trust_env=False)
    assert comparable(ours.json()) == comparable(real.json())
    forgotten = fields.get("ignore_eos", False) and path != GENERATE
    assert len(embedded.last.samples[0].token_ids) == (5 if forgotten or "min_tokens" in fields else 2)
