"""Every recorded body of a real vLLM: it decodes to what a plain reading finds, or is refused for a named reason.

``tests/data/captures_vllm`` holds answers of vLLM 0.32.0 and 0.33.0; ``index.json`` has the request behind each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import Wire
from support import reading

FOLDER = Path(__file__).parents[1] / "data" / "captures_vllm"

ROUTES: dict[str, Wire] = {
    "/inference/v1/generate": "vllm_generate",
    "/v1/chat/completions": "vllm_chat",
    # vLLM's completions are no wire of ours. The one that looks most like it must not take them for its own.
    "/v1/completions": "dynamo_completions",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """How a body is refused, and words that its message has."""

    error: type[tito.TitoError]
    kind: str | None
    path: str
    words: str


NO_TOKEN = Reason(tito.AlignmentError, "identity", "choices[0].logprobs.content[0]", 'output_mode "tokens"')
STREAM = Reason(tito.MalformedBodyError, "event_stream", "", "server-sent events")
NO_IDS = Reason(tito.MissingFieldError, "missing", "choices[0].token_ids", "ask the server for them")
UNREAD = Reason(tito.RoutedExpertsError, "unread", "choices[0].routed_experts", 'experts="skip"')
NO_CHOICES = Reason(tito.MissingFieldError, "missing", "choices", "does not have it")

REFUSED = {
    "gen_text.json": NO_TOKEN,
    "drive_text_mode.json": NO_TOKEN,
    "gen_stream.sse": STREAM,
    "chat_stream.sse": STREAM,
    "drive_stream.sse": STREAM,
    "drive_chat_stream.sse": STREAM,
    # Asked without return_token_ids.
    "chat_plain.json": NO_IDS,
    "drive_completions.json": UNREAD,
    # {"detail":"Method Not Allowed"}
    "wrong_method.json": NO_CHOICES,
}


@cache
def index() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "index.json").read_bytes())
    return found


def names() -> list[str]:
    return sorted(index())


def request(name: str) -> dict[str, Any]:
    found: dict[str, Any] = index()[name].get("request", {})
    return found


def wire(name: str) -> Wire | None:
    """The wire of an answer; None of administration."""
    if (path := request(name).get("path")) is not None:
        return ROUTES.get(path)
    if name.startswith("drive_completions"):
        return "dynamo_completions"
    return "vllm_chat" if name.startswith("drive_chat") else "vllm_generate"


def prompt_of(name: str, body: bytes) -> dict[str, Any]:
    """What the caller knows: the start that was asked for, and P, on chat by the server's own count."""
    asked = request(name).get("body")
    asked = asked if isinstance(asked, dict) else {}
    start = asked.get("sampling_params", asked).get("routed_experts_prompt_start")
    if name == "drive_chat_start_5.json":
        start = 5
    ids = asked.get("token_ids")
    prompt_len = json.loads(body)["usage"]["prompt_tokens"] if ids is None else len(ids)
    return {"prompt_len": prompt_len, "routed_experts_prompt_start": start}


ANSWERS = [name for name in names() if wire(name) is not None and not name.endswith(".txt")]
DECODED = [
    name for name in ANSWERS if Path(name).name not in REFUSED and b'"choices":[' in (FOLDER / name).read_bytes()
]


def test_every_recorded_answer_is_known() -> None:
    assert all((FOLDER / name).is_file() for name in names())
    assert len(ANSWERS) > 150
    assert len(DECODED) > 80


@pytest.mark.parametrize("name", DECODED)
def test_an_answer_decodes_to_what_a_plain_reading_finds(name: str) -> None:
    body, chosen = (FOLDER / name).read_bytes(), wire(name)
    assert chosen is not None
    known = prompt_of(name, body)
    completions = tito.decode_choices(body, wire=chosen, require_logprobs=False, **known)
    assert [*map(repr, completions)] == [*map(repr, reading.read(body, wire=chosen, **known))]
    for completion in completions:
        # The completions of vLLM are read as Dynamo's, whose plain finish reason does not tell.
        assert completion.aborted is (None if chosen == "dynamo_completions" else False)
        assert (completion.routed_experts is None) == (b'"routed_experts":"' not in body)


@pytest.mark.parametrize("name", [name for name in ANSWERS if Path(name).name in REFUSED])
def test_an_answer_is_refused_for_its_reason(name: str) -> None:
    body, chosen, reason = (FOLDER / name).read_bytes(), wire(name), REFUSED[Path(name).name]
    assert chosen is not None
    with pytest.raises(reason.error) as raised:
        tito.decode_choices(body, wire=chosen)
    assert type(raised.value) is reason.error
    assert isinstance(raised.value, tito.DecodeError)
    assert (raised.value.kind, raised.value.path) == (reason.kind, reason.path)
    assert reason.words in str(raised.value)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name not in DECODED and Path(name).name not in REFUSED])
def test_an_error_of_the_server_is_one(name: str) -> None:
    chosen = wire(name)
    assert chosen is not None
    with pytest.raises(tito.ServerError) as raised:
        tito.decode((FOLDER / name).read_bytes(), wire=chosen)
    assert raised.value.status is None


@pytest.mark.parametrize("name", [name for name in names() if wire(name) is None])
def test_an_answer_of_administration_is_no_completion(name: str) -> None:
    with pytest.raises(tito.TitoError):
        tito.decode((FOLDER / name).read_bytes(), wire="vllm_generate")


@pytest.mark.parametrize("name", ["drive_completions.json", "vllm-0.32.0-v1/compl_ids.json"])
def test_completions_of_vllm_are_not_taken_for_chat(name: str) -> None:
    with pytest.raises(tito.MissingFieldError) as raised:
        tito.decode((FOLDER / name).read_bytes(), wire="vllm_chat", prompt_len=3)
    assert raised.value.path == "choices[0].logprobs.content"
