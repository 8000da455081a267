"""What asks for a generation artifact, and the answer that has one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport
from support.driver import Driver
from support.raw_server import Answer, RawServer, Received, reply

Connect = Callable[..., Driver]

DATA = Path(__file__).parents[1] / "data" / "artifacts"
BODIES = {"dynamo_chat": "dynamo17_artifact_chat_top", "dynamo_completions": "dynamo17_artifact_completions_top"}
DYNAMO: tuple[RendererTransport, ...] = ("dynamo_chat", "dynamo_completions")


def asked(transport: RendererTransport, **options: Any) -> Any:
    return json.loads(
        tito.encode_request(transport, model="m", prompt_ids=[1, 2, 3, 4, 5], artifact="inline", **options)
    )


@pytest.mark.parametrize("transport", DYNAMO)
@pytest.mark.parametrize(
    ("options", "contents"),
    [
        ({}, ["selected_logprobs"]),
        ({"return_routed_experts": True}, ["moe_routes", "selected_logprobs"]),
        ({"routed_experts_prompt_start": 0}, ["moe_routes", "selected_logprobs"]),
        ({"sampling_params": {"logprobs": 2}}, ["selected_logprobs", "topk_logprobs"]),
        ({"sampling_params": {"logprobs": 0}}, []),
    ],
)
def test_what_is_asked_for(transport: RendererTransport, options: dict[str, Any], contents: list[str]) -> None:
    body = asked(transport, **options)
    expected = {"kind": "generation_artifact", "contents": contents, "mode": "inline_base64"}
    assert body["nvext"]["metadata_upload"] == expected
    assert body["nvext"]["extra_fields"] == ["detailed_finish_reason"]
    # The server's own log-probabilities are asked for only to say how many candidates there are.
    assert ("logprobs" in body) == ("topk_logprobs" in contents)


@pytest.mark.parametrize("transport", ["vllm_generate", "prime_chat_tokens", "sglang_generate"])
def test_routes_without_artifacts(transport: RendererTransport) -> None:
    with pytest.raises(NotImplementedError, match="sends no artifact"):
        tito.encode_request(transport, model=None, prompt_ids=[1], artifact="inline")


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="artifact must be one of inline or None, not 'relay'"):
        tito.encode_request("dynamo_chat", model="m", prompt_ids=[1], artifact="relay")  # type: ignore[arg-type]
    upload = {"metadata_upload": {"kind": "generation_artifact"}}
    with pytest.raises(ValueError, match="metadata_upload cannot be given: artifact asks for it"):
        asked("dynamo_chat", extra_body={"nvext": upload})


@pytest.mark.parametrize("transport", DYNAMO)
def test_the_answer(server: RawServer, connect: Connect, transport: RendererTransport) -> None:
    def answer(request: Received) -> Answer:
        contents = request.json["nvext"]["metadata_upload"]["contents"]
        assert contents == ["moe_routes", "selected_logprobs", "topk_logprobs"]
        return reply(200, (DATA / f"{BODIES[transport]}.json").read_bytes())

    server.play(answer)
    client = connect(transport=transport, preflight=False)
    completion = client.generate(artifact="inline", sampling_params={"logprobs": 2})
    assert completion.sources["token_ids"].startswith("nvext.metadata_upload.data_base64")
    assert completion.top_logprobs is not None
    assert completion.routed_experts is not None
    assert completion.routed_experts.array.shape == (8, 4, 2)


@pytest.mark.parametrize("transport", DYNAMO)
def test_an_answer_without_the_routes_that_were_asked_for(
    server: RawServer, connect: Connect, transport: RendererTransport
) -> None:
    server.play(reply(200, (DATA / "dynamo17_artifact_ids.json").read_bytes()))
    client = connect(transport=transport, preflight=False)
    params = {"logprobs": 0}
    with pytest.raises(tito.MissingFieldError, match="no routed experts"):
        client.generate(artifact="inline", sampling_params=params)


@pytest.mark.parametrize("transport", DYNAMO)
def test_what_is_asked_for_in_a_stream(transport: RendererTransport) -> None:
    body = asked(transport, stream=True)
    assert body["nvext"]["metadata_upload"]["contents"] == ["selected_logprobs"]
    # The artifact comes with the last tokens, these with each.
    assert body["nvext"]["extra_fields"] == ["detailed_finish_reason", "completion_token_ids"]
