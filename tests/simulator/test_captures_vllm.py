"""The embedded engine's answers beside those that a real vLLM 0.32 and 0.33 gave to the same requests.

`python tests/simulator/test_captures_vllm.py` prints every body, and what differs.
"""

# The file prints its list when it is run.
# ruff: noqa: T201

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dynamo_tito import simulator
from dynamo_tito.simulator import Engine
from support.shapes import differences

FOLDER = Path(__file__).parents[1] / "data" / "captures_vllm"
INDEX: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())

_MODEL: dict[str, Any] = {
    "backend": "vllm",
    "model": "toy",
    "vocab_size": 512,
    "max_model_len": 512,
    "num_layers": 4,
    "top_k": 2,
    "num_experts": 16,
    # The recorded servers had no adapters and no weight transfer.
    "lora": False,
    "weight_transfer": False,
}
SERVERS: dict[str, dict[str, Any]] = {
    "vllm-0.32.0-v1": _MODEL | {"vllm_version": "0.32", "routed_experts": False},
    "vllm-0.32.0-v2": _MODEL | {"vllm_version": "0.32"},
    "vllm-0.33.0-hybrid": _MODEL | {"vllm_version": "0.33"},
    ".": _MODEL | {"vllm_version": "0.32"},
}

#: Requests that are not recorded, as their answers show them.
REQUESTS: dict[str, dict[str, Any]] = {
    "drive_completions.json": {
        "method": "POST",
        "path": "/v1/completions",
        "body": {"prompt": [40, 41, 42], "max_tokens": 4, "logprobs": 1, "return_token_ids": True},
    },
    "drive_text_mode.json": {
        "method": "POST",
        "path": "/inference/v1/generate",
        "body": {
            "token_ids": [40, 41, 42, 43],
            "sampling_params": {"max_tokens": 4, "logprobs": 2},
            "return_token_ids": True,
            "output_mode": "text",
        },
    },
}

#: Bodies that are not played, and why.
NOT_PLAYED = {
    name: "the request is not recorded"
    for name, entry in INDEX.items()
    if "request" not in entry and name not in REQUESTS and name.endswith(".json")
} | {name: "streams: test_streams_recorded.py" for name in INDEX if name.endswith(".sse")}

_BYTES = "the engine's tokenizer makes a token of each byte, so a text has another number of tokens"
_LETTERS = "the engine's words have no such letter; test_a_stop_string_ends_the_answer"
_KERNELS = "top_k broke the kernels of the recorded server, which ran in an interpreter"
_PROMPT = ".prompt_token_ids: 21 elements instead of 12"
_ROWS = ".choices[0].routed_experts: 312 bytes instead of 240"
_STOP = (
    ".choices[0].finish_reason: 'length' instead of 'stop'",
    '.choices[0].stop_reason: NoneType null instead of str "a"',
    ".choices[0].token_ids: 30 elements instead of 22",
    ".choices[0].routed_experts: 400 bytes instead of 336",
)

#: What a body differs in, line by line, and why.
DIFFERENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "vllm-0.32.0-v1/chat_ids.json": (_BYTES, (_PROMPT,)),
    "vllm-0.32.0-v1/chat_n2.json": (_BYTES, (_PROMPT,)),
    "vllm-0.32.0-v1/chat_start.json": (_BYTES, (_PROMPT,)),
    "vllm-0.32.0-v1/tokenize_prompt.json": (_BYTES, (".tokens: 9 elements instead of 4",)),
    "vllm-0.32.0-v1/tokenize_chat.json": (_BYTES, (".tokens: 21 elements instead of 12",)),
    "vllm-0.32.0-v1/tokenize_chat_nogen.json": (_BYTES, (".tokens: 10 elements instead of 7",)),
    "vllm-0.32.0-v1/tokenize_continue.json": (_BYTES, (".tokens: 24 elements instead of 14",)),
    "vllm-0.32.0-v2/gen_topp.json": (_KERNELS, ("status: 200 instead of 500",)),
    "vllm-0.32.0-v2/gen_stop_str.json": (_LETTERS, _STOP),
    "vllm-0.33.0-hybrid/gen_stop_str.json": (_LETTERS, _STOP),
    "vllm-0.33.0-hybrid/chat_plain.json": (_BYTES, (_ROWS,)),
    "vllm-0.33.0-hybrid/chat_ids.json": (_BYTES, (_PROMPT, _ROWS)),
    "vllm-0.33.0-hybrid/chat_lp.json": (_BYTES, (_PROMPT, _ROWS)),
    "vllm-0.33.0-hybrid/chat_lp2.json": (_BYTES, (_PROMPT, _ROWS)),
    "vllm-0.33.0-hybrid/chat_lp_ids.json": (_BYTES, (_PROMPT, _ROWS)),
    "vllm-0.33.0-hybrid/chat_plp.json": (_BYTES, (_PROMPT, _ROWS, ".prompt_logprobs: 21 elements instead of 12")),
    "vllm-0.33.0-hybrid/chat_start.json": (
        _BYTES,
        (_PROMPT, ".choices[0].routed_experts: 288 bytes instead of 216"),
    ),
    "vllm-0.33.0-hybrid/tokenize_prompt.json": (_BYTES, (".tokens: 9 elements instead of 4",)),
    "vllm-0.33.0-hybrid/tokenize_strs.json": (
        _BYTES,
        (".tokens: 9 elements instead of 4", ".token_strs: 9 elements instead of 4"),
    ),
    "vllm-0.33.0-hybrid/tokenize_chat_nogen.json": (_BYTES, (".tokens: 10 elements instead of 7",)),
}

_OTHER_API = "another API than the one that trains"
_OPERATIONS = "of no use to a client of tokens"
_SLEEP = "the engine has no memory to give back"
_RENDER = "no answer is recorded"
#: Routes of the recorded servers that the engine has not, and why.
NOT_SERVED = {
    **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/render"), _OTHER_API),
    **dict.fromkeys(("/v1/responses", "/v1/responses/render", "/v1/responses/{response_id}"), _OTHER_API),
    **dict.fromkeys(("/v1/responses/{response_id}/cancel", "/generative_scoring", "/v1/systemone"), _OTHER_API),
    **dict.fromkeys(("/v1/chat/completions/batch", "/v1/decisions", "/invocations"), _OTHER_API),
    **dict.fromkeys(("/v1/chat/completions/render", "/v1/completions/render"), _RENDER),
    **dict.fromkeys(("/v1/chat/completions/derender", "/v1/completions/derender"), _RENDER),
    **dict.fromkeys(("/adapters", "/adapters/{adapter_name}"), "the names of SageMaker for adapters"),
    **dict.fromkeys(("/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc", "/ping", "/load"), _OPERATIONS),
    **dict.fromkeys(("/kv_event_sources", "/scale_elastic_ep", "/is_scaling_elastic_ep"), _OPERATIONS),
    **dict.fromkeys(("/sleep", "/wake_up", "/release_kv_cache_memory"), _SLEEP),
    "/start_draft_weight_update": "the engine has no draft model",
}


def _played() -> list[str]:
    return [name for name in INDEX if name not in NOT_PLAYED and not Path(name).name.startswith("routes_")]


def _ask(engine: Engine, name: str, asked: dict[str, Any]) -> httpx.Response:
    body = asked["body"]
    if Path(name).stem == "chat_overlong":  # which the index abbreviates
        body = {"model": "toy", "messages": [{"role": "user", "content": "z" * 3_000}]}
    if Path(name).stem == "gen_eos":  # the token that ends a message is another one here
        sampling = body["sampling_params"] | {"logit_bias": {str(engine.model.eos_token_id): 100}}
        body = body | {"sampling_params": sampling}
    content = None if body is None else {"json": body}
    return httpx.request(
        asked["method"], engine.url + asked["path"], **(content or {}), trust_env=False, verify=False, timeout=60.0
    )


def _found(engine: Engine, name: str) -> Iterator[str]:
    """Every difference between the engine's answer and the recorded one."""
    entry = INDEX[name]
    asked = REQUESTS.get(name) or entry["request"]
    answer = _ask(engine, name, asked)
    body = (FOLDER / name).read_bytes()
    recorded: Any = json.loads(body) if body else {}
    # The status of some bodies is known from the body alone.
    status = entry.get("status") or (recorded["error"]["code"] if "error" in recorded else 200)
    if answer.status_code != status:
        yield f"status: {answer.status_code} instead of {status}"
        return
    if "content_type" in entry and answer.headers.get("content-type", "") != entry["content_type"]:
        yield f"content type: {answer.headers.get('content-type')} instead of {entry['content_type']}"
    if not recorded or status >= 400:
        # Errors are the server's own words.
        if answer.content != body:
            yield f"error: {answer.text} instead of {body.decode()}"
        return
    ours = answer.json()
    if "checksums" in recorded:  # whose keys are the tensors of the model
        yield from {_digest(document) for document in (ours, recorded)} - {_digest(recorded)}
        return
    yield from differences(ours, recorded)
    yield from _words(ours, recorded)
    yield from _alternatives(engine, ours, recorded, asked["body"] or {})


def _digest(answer: Any) -> str:
    """How the checksums are named and written."""
    named = {(name.rpartition(":")[0], len(digest)) for name, digest in answer["checksums"].items()}
    return f"{list(answer)}: {named}"


FIXED = ("finish_reason", "object", "output_mode", "role", "owned_by", "stop_reason", "status", "message")


def _words(ours: Any, recorded: Any, path: str = "") -> Iterator[str]:
    """Values that are words of the server and not made by its model."""
    if isinstance(ours, dict) and isinstance(recorded, dict):
        for key in ours.keys() & recorded.keys():
            if key in FIXED and isinstance(ours[key], str) and ours[key] != recorded[key]:
                yield f"{path}.{key}: {ours[key]!r} instead of {recorded[key]!r}"
            yield from _words(ours[key], recorded[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(recorded, list):
        for number, (mine, theirs) in enumerate(zip(ours, recorded, strict=False)):
            yield from _words(mine, theirs, f"{path}[{number}]")


def _alternatives(engine: Engine, ours: Any, recorded: Any, request: Any) -> Iterator[str]:
    """How many alternatives each token has; a token that is among the best k itself is not listed twice.

    The recorded model is small and random: no token that was sampled or given was among its best.
    """
    params = request.get("sampling_params", request)
    k = int(params.get("top_logprobs", params.get("logprobs")) or 0)
    for number, (mine, theirs) in enumerate(zip(ours.get("choices", ()), recorded.get("choices", ()), strict=False)):
        ranks = engine.last.samples[number].scores.ranks
        for at, (one, other) in enumerate(zip(_tops(mine), _tops(theirs), strict=False)):
            if one != other - (other > k and bool(ranks[at] <= k)):
                yield f".choices[{number}].logprobs.content[{at}].top_logprobs: {one} elements instead of {other}"
    pairs = zip(ours.get("prompt_logprobs") or (), recorded.get("prompt_logprobs") or (), strict=False)
    for at, (mine, theirs) in enumerate(pairs):
        if at and len(mine) != len(theirs) - (next(iter(mine.values()))["rank"] < len(theirs)):
            yield f".prompt_logprobs[{at}]: {len(mine)} elements instead of {len(theirs)}"


def _tops(choice: Any) -> list[int]:
    return [len(entry["top_logprobs"]) for entry in (choice.get("logprobs") or {}).get("content") or ()]


def test_the_tables_name_bodies_and_routes() -> None:
    played = set(_played())
    assert set(DIFFERENCES) <= played
    assert set(REQUESTS) <= played
    assert len(played) > 190
    recorded = {path for version in ("0.32", "0.33") for path, _ in _recorded_routes(version)}
    assert set(NOT_SERVED) <= recorded


@pytest.mark.parametrize("name", _played())
def test_answers_are_as_recorded(name: str) -> None:
    with simulator.running(**SERVERS[_server(name)]) as engine:
        found = list(_found(engine, name))
    assert sorted(found) == sorted(DIFFERENCES.get(name, ("", ()))[1])


@pytest.mark.parametrize("version", ["0.32", "0.33"])
def test_every_recorded_route_is_served_or_listed_as_left_out(version: str) -> None:
    with simulator.running(**_MODEL | {"vllm_version": version}) as engine:
        missing = {
            path
            for path, methods in _recorded_routes(version)
            for method in methods
            if httpx.request(method, engine.url + path, trust_env=False, verify=False).text == '{"detail":"Not Found"}'
        }
    assert missing == {path for path, _ in _recorded_routes(version)} & NOT_SERVED.keys()


def _recorded_routes(version: str) -> Iterator[tuple[str, list[str]]]:
    for line in (FOLDER / f"routes_{version}.0.txt").read_text().splitlines():
        path, methods = line.removeprefix("Route: ").split(", Methods: ")
        yield path, [method for method in methods.split(", ") if method != "HEAD"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("usage"),
        lambda d: d["choices"][0].update(finish_reason="stop"),
        lambda d: d["choices"][0].update(stop_reason="x"),
        lambda d: d["choices"][0]["logprobs"]["content"][0]["top_logprobs"].pop(),
        lambda d: d["choices"][0]["logprobs"]["content"].pop(),
        lambda d: d["choices"][0]["weight_versions"][0].update(end=None),
        lambda d: d["choices"][0].update(token_ids=[]),
    ],
)
def test_a_difference_is_found(spoil: Any) -> None:
    name = "vllm-0.33.0-hybrid/gen_lp1.json"
    recorded, spoiled = (json.loads((FOLDER / name).read_bytes()) for _ in range(2))
    spoil(spoiled)
    with simulator.running(**SERVERS[_server(name)]) as engine:
        _ask(engine, name, INDEX[name]["request"])
        # The recorded token was none of the best.
        engine.last.samples[0].scores.ranks[:] = 100
        for ours, empty in ((recorded, True), (spoiled, False)):
            request = INDEX[name]["request"]["body"]
            found = [
                *differences(ours, recorded),
                *_words(ours, recorded),
                *_alternatives(engine, ours, recorded, request),
            ]
            assert (found == []) is empty


def _server(name: str) -> str:
    return str(Path(name).parent)


if __name__ == "__main__":
    for name in _played():
        with simulator.running(**SERVERS[_server(name)]) as engine:
            found = list(_found(engine, name))
        reason, listed = DIFFERENCES.get(name, ("", ()))
        print(f"{name}: {'the same' if not found else reason}")
        for line in found:
            print(f"    {'' if line in listed else 'NOT LISTED: '}{line[:400]}")
    for table in (NOT_PLAYED, NOT_SERVED):
        for name, reason in table.items():
            print(f"{name}: {reason}")
