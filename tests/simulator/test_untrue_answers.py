"""Impossible answers, as the embedded engine plays them: each is in the raw body, on every wire that has the field."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito.simulator import Engine, Fault
from dynamo_tito.simulator.admin_faults import ADMIN_FAULTS
from dynamo_tito.simulator.contents import EDITS
from dynamo_tito.simulator.faults import ADMIN_PATHS, AdminKind, ContentKind

PROMPT, COUNT = [5, 6, 7, 8], 5
GENERATE, CHAT = "/inference/v1/generate", "/v1/chat/completions"
_MESSAGES = [{"role": "user", "content": "hi"}]
_TOKENS = {
    "token_ids": PROMPT,
    "return_token_ids": True,
    "sampling_params": {"max_tokens": COUNT, "logprobs": 1, "prompt_logprobs": 0},
}
_TEXT = {"max_tokens": COUNT, "logprobs": True, "return_token_ids": True, "messages": _MESSAGES, "tokens": PROMPT}
_NVEXT = {"token_data": PROMPT, "extra_fields": ["engine_data", "detailed_finish_reason"]}


@dataclass(frozen=True)
class Asked:
    """A server, and a request for everything that its answer can hold."""

    wire: tito.Wire
    settings: dict[str, Any]
    path: str
    body: dict[str, Any]


WIRES = {
    "vllm": Asked("vllm_generate", {"backend": "vllm"}, GENERATE, _TOKENS),
    "vllm 0.31": Asked("vllm_generate", {"backend": "vllm", "vllm_version": "0.31"}, GENERATE, _TOKENS),
    "vllm chat": Asked("vllm_chat", {"backend": "vllm"}, CHAT, _TEXT | {"return_weight_versions": True}),
    "prime": Asked("vllm_generate", {"backend": "prime"}, GENERATE, _TOKENS),
    "prime chat": Asked("vllm_chat", {"backend": "prime"}, "/v1/chat/completions/tokens", _TEXT),
    "dynamo": Asked("vllm_generate", {"backend": "dynamo"}, GENERATE, _TOKENS),
    "dynamo chat": Asked(
        "dynamo_chat",
        {"backend": "dynamo"},
        CHAT,
        {"model": "tito-model", "messages": _MESSAGES, "max_tokens": COUNT, "logprobs": True, "nvext": _NVEXT},
    ),
    "dynamo chat, bare": Asked(
        "dynamo_chat",
        {"backend": "dynamo", "routed_experts_container": "bare"},
        CHAT,
        {"model": "tito-model", "messages": _MESSAGES, "max_tokens": COUNT, "logprobs": True, "nvext": _NVEXT},
    ),
    "dynamo completions": Asked(
        "dynamo_completions",
        {"backend": "dynamo"},
        "/v1/completions",
        {
            "model": "tito-model",
            "prompt": PROMPT,
            "max_tokens": COUNT,
            "logprobs": 1,
            "nvext": {"extra_fields": ["engine_data", "detailed_finish_reason"]},
        },
    ),
    "sglang": Asked(
        "sglang_generate",
        {"backend": "sglang"},
        "/generate",
        {
            "input_ids": PROMPT,
            "sampling_params": {"max_new_tokens": COUNT},
            "return_logprob": True,
            "return_routed_experts": True,
            "return_prompt_token_ids": True,
        },
    ),
}
EVERY = tuple(WIRES)
ENTRIES = ("vllm", "vllm 0.31", "vllm chat", "prime", "prime chat", "dynamo", "dynamo chat", "dynamo completions")
MASKS = ("vllm", "vllm 0.31", "prime", "dynamo", "dynamo chat", "sglang")
COUNTS = ("vllm", "vllm chat", "prime", "prime chat", "dynamo chat", "dynamo completions", "sglang")
ECHOES = ("vllm", "vllm chat", "prime chat", "dynamo chat", "dynamo completions", "sglang")
SPANS = ("vllm", "vllm chat", "sglang")
PLAYED: dict[ContentKind, tuple[str, ...]] = {
    # None of these asks for an artifact.
    "artifact_cut": (),
    "artifact_size": (),
    "artifact_failed": (),
    "artifact_ids": (),
    "positive_logprobs": EVERY,
    "zero_logprobs": EVERY,
    "short_entries": ENTRIES,
    "unrouted_row": EVERY,
    "unrouted_slot": EVERY,
    "rows_behind_prompt": EVERY,
    "no_rows": EVERY,
    "early_abort": EVERY,
    "spans_overlap": SPANS,
    "spans_gap": SPANS,
    "spans_bare": SPANS,
    "mask_empty_row": MASKS,
    "mask_without_token": MASKS,
    "prompt_count": COUNTS,
    "completion_count": COUNTS,
    "long_echo": ECHOES,
    "events": EVERY,
}


VOLATILE = {"id", "request_id", "created", "meta_info", "nvext"}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Engine]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(simulator.running(**asked.settings)) for name, asked in WIRES.items()}


def play(engine: Engine, asked: Asked, *faults: Fault) -> httpx.Response:
    engine.inject(*faults)
    answer = httpx.post(engine.url + asked.path, json=asked.body, timeout=30.0, trust_env=False, verify=False)
    assert not engine.faults.pending()
    return answer


def channel(document: Any, *names: str) -> Iterator[Any]:
    """Every value under one of these names, wherever it is."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name in names and value is not None:
                yield value
            yield from channel(value, *names)
    elif isinstance(document, list):
        for value in document:
            yield from channel(value, *names)


def logprobs(document: Any) -> list[float]:
    """Of the sampled tokens, from every channel."""
    found = [
        entry["logprob"] for content in channel(document, "content") if isinstance(content, list) for entry in content
    ]
    for values in channel(document, "token_logprobs", "completion_logprobs"):
        found += values
    for triples in channel(document, "output_token_logprobs"):
        found += [triple[0] for triple in triples]
    return found


def rows(document: Any) -> list[np.ndarray[Any, Any]]:
    """The routed experts of every channel."""
    found = []
    for value in channel(document, "routed_experts"):
        data = base64.b64decode(value["data"] if isinstance(value, dict) else value)
        if isinstance(value, dict):
            found.append(np.frombuffer(data, value["dtype"]).reshape(value["shape"]))
        elif data.startswith(b"\x93NUMPY"):
            found.append(np.load(io.BytesIO(data)))
        else:
            found.append(np.frombuffer(data, "<i4").reshape(-1, 4, 2))
    return found


def seen(kind: ContentKind, document: Any, plain: Any, prompt_len: int) -> bool:  # noqa: C901, PLR0911, PLR0912
    """Whether the body shows the fault; `plain` is the body without it."""
    spans = [list(map(tuple, map(dict.items, value))) for value in channel(document, "weight_versions")]
    masks = [*channel(document, "sampling_mask", "output_token_sampling_mask")]
    match kind:
        case "positive_logprobs":
            return min(logprobs(document)) > 3.0
        case "zero_logprobs":
            return set(logprobs(document)) == {0.0}
        case "short_entries":
            lists = [value for value in channel(document, "content", "tokens") if isinstance(value, list)]
            return bool(lists) and {len(value) for value in lists} == {COUNT - 1}
        case "unrouted_row":
            return all((one[0] == -1).all() and (one[1:] >= 0).all() for one in rows(document))
        case "unrouted_slot":
            return all((one == -1).sum() == 1 and one[0, -1, -1] == -1 for one in rows(document))
        case "rows_behind_prompt":
            starts = {value["start"] for value in channel(document, "routed_experts") if isinstance(value, dict)}
            return {len(one) for one in rows(document)} == {COUNT - 1} and starts <= {prompt_len}
        case "no_rows":
            return not rows(document) and bool(rows(plain))
        case "early_abort":
            tokens = [*channel(document, "token_ids", "completion_token_ids", "output_ids")]
            return (
                not rows(document)
                and not any(tokens)
                and any(word in json.dumps(document) for word in ('"abort"', '"cancelled"'))
            )
        case "spans_overlap":
            return spans == [[_span("1", 0, COUNT), _span("2", COUNT - 1, COUNT)]]
        case "spans_gap":
            return spans == [[_span("1", 1, COUNT)]]
        case "spans_bare":
            return spans == [[(("version", "1"),)]] or (not spans and "default" in channel(document, "weight_version"))
        case "mask_empty_row":
            return all(mask[0] == [] and all(mask[1:]) and len(mask) == COUNT for mask in masks) and bool(masks)
        case "mask_without_token":
            sampled = next(channel(document, "token_ids", "completion_token_ids", "output_ids"))
            within = [[token in row for token, row in zip(sampled, mask, strict=True)] for mask in masks]
            return within == [[False] + [True] * (COUNT - 1)] * len(masks) and bool(masks)
        case "prompt_count":
            return bool(next(channel(document, "prompt_tokens")) == prompt_len + 1)
        case "completion_count":
            return bool(next(channel(document, "completion_tokens")) == COUNT + 1)
        case "long_echo":
            return {len(value) for value in channel(document, "prompt_token_ids")} == {prompt_len + 1}
        case _:
            raise AssertionError(kind)


def _span(version: str, start: int, end: int) -> tuple[tuple[str, Any], ...]:
    return ("version", version), ("start", start), ("end", end)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in PLAYED.items() for name in names])
def test_the_fault_is_in_the_raw_body(engines: dict[str, Engine], kind: ContentKind, name: str) -> None:
    asked, engine = WIRES[name], engines[name]
    plain = play(engine, asked).json()
    prompt_len = len(engine.last.samples[0].prompt_ids)
    answer = play(engine, asked, Fault(kind=kind))
    if kind == "events":
        assert answer.headers["content-type"].startswith("text/event-stream")
        data, done, rest = answer.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        assert json.loads(data.removeprefix("data: ")).keys() == plain.keys()
    elif kind == "early_abort" and name == "dynamo":
        assert answer.status_code == 499
    else:
        assert answer.status_code == 200, answer.text
        assert not seen(kind, plain, plain, prompt_len) or (kind, name) == ("spans_bare", "sglang")
        assert seen(kind, answer.json(), plain, prompt_len), answer.text[:2_000]
    # The next answer is whole again.
    again = play(engine, asked).json()
    assert {key for key in again if again[key] != plain[key]} <= VOLATILE


def test_every_kind_is_played() -> None:
    assert {*EDITS, "events"} == set(get_args(ContentKind)) == set(PLAYED)
    assert set(ADMIN_FAULTS) == set(ADMIN_PATHS) == set(get_args(AdminKind))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, names in PLAYED.items() for name in WIRES if name not in names],
)
def test_a_fault_of_a_field_that_the_wire_lacks_is_refused(
    engines: dict[str, Engine], kind: ContentKind, name: str
) -> None:
    if kind in {"mask_empty_row", "mask_without_token"} and name.startswith("dynamo"):
        return  # engine_data has them on completions and with bare containers too
    if kind in {"prompt_count", "completion_count", "long_echo", "short_entries"} and name == "dynamo chat, bare":
        return  # as dynamo chat
    answer = play(engines[name], WIRES[name], Fault(kind=kind))
    assert answer.status_code == 500
    assert f"cannot play {kind}" in answer.text or name.startswith("dynamo")


@pytest.mark.parametrize("name", EVERY)
def test_a_finish_reason_of_error(engines: dict[str, Engine], name: str) -> None:
    document = play(engines[name], WIRES[name], Fault(kind="finish", message="error")).json()
    reasons = [*channel(document, "finish_reason")]
    assert reasons == [{"type": "error"} if name == "sglang" else "error"]
