"""Three servers, one result: one trims routed experts at the start, one ignores the start, one refuses it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dynamo_tito._config import RendererTransport
from dynamo_tito._errors import BadRequestError, RoutedExpertsError, UnsupportedParameterError
from dynamo_tito._requests.dynamo import names_prompt_start
from support.driver import Driver
from support.raw_server import Answer, RawServer, Received, reply

Connect = Callable[..., Driver]
Recorded = Callable[[str], bytes]

DYNAMO: tuple[RendererTransport, ...] = ("dynamo_chat", "dynamo_completions")
BODIES = {"dynamo_chat": "chat_engine_data_logprobs", "dynamo_completions": "completions_int_prompt_engine_data"}


class DynamoLike:
    """A server that honours the start, does not look at it, or does not know it."""

    def __init__(self, body: bytes, behaviour: str, refusal: bytes) -> None:
        self.document = json.loads(body)
        self.behaviour = behaviour
        self.refusal = refusal
        experts = self.document["nvext"]["engine_data"]["routed_experts"]
        self.rows = np.frombuffer(base64.b64decode(experts["data"]), np.uint8).reshape(experts["shape"])

    def __call__(self, request: Received) -> Answer:
        start = request.json["nvext"].get("routed_experts_prompt_start", 0)
        if start and self.behaviour == "refuses":
            return reply(400, self.refusal)
        if self.behaviour != "trims":
            start = 0
        rows = self.rows[start:]
        document: dict[str, Any] = json.loads(json.dumps(self.document))
        document["nvext"]["engine_data"]["routed_experts"] = {
            "data": base64.b64encode(rows.tobytes()).decode(),
            "shape": list(rows.shape),
            "start": start,
            "dtype": "uint8",
        }
        return reply(200, document)


@pytest.mark.parametrize("transport", DYNAMO)
@pytest.mark.parametrize("behaviour", ["trims", "ignores", "refuses"])
@pytest.mark.parametrize("start", [None, 0, 1, 3, 4, 5])
def test_the_caller_sees_the_same(
    connect: Connect,
    server: RawServer,
    recorded: Recorded,
    transport: RendererTransport,
    behaviour: str,
    start: int | None,
) -> None:
    dynamo = DynamoLike(recorded(BODIES[transport]), behaviour, recorded("chat_re_prompt_start_nvext"))
    server.play(dynamo)
    client = connect(transport=transport)
    for _ in range(3):
        routed = client.generate(routed_experts_prompt_start=start).routed_experts
        assert routed is not None
        assert routed.start == (start or 0)
        assert np.array_equal(routed.array, dynamo.rows[start or 0 :])
    # Refused once, remembered from then on.
    assert server.hits == (4 if behaviour == "refuses" and start else 3)
    sent = [request.json["nvext"].get("routed_experts_prompt_start") for request in server.requests]
    wanted = min(start, 4) if start else None
    assert sent == ([wanted, None, None, None] if behaviour == "refuses" and start else [wanted] * 3)


def test_a_refused_start_is_remembered_for_both_routes(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    refusal = recorded("chat_re_prompt_start_nvext")
    client = connect()
    for transport in DYNAMO:
        server.play(DynamoLike(recorded(BODIES[transport]), "refuses", refusal))
        client.generate(transport=transport, routed_experts_prompt_start=2)
    assert server.hits == 3


def test_a_refusal_of_something_else_surfaces(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(400, recorded("error_unknown_nvext_field")))
    with pytest.raises(UnsupportedParameterError, match="unknown field `foo`"):
        connect(transport="dynamo_chat").generate(routed_experts_prompt_start=2, extra_body={"nvext": {"foo": 1}})
    assert server.hits == 1


def test_a_second_refusal_surfaces(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    server.play(reply(400, recorded("chat_re_prompt_start_nvext")), reply(400, {"message": "and that is wrong too"}))
    with pytest.raises(BadRequestError, match="and that is wrong too"):
        connect(transport="dynamo_chat").generate(routed_experts_prompt_start=2)
    assert server.hits == 2


def test_an_answer_from_another_start_is_refused(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    document = json.loads(recorded(BODIES["dynamo_chat"]))
    document["nvext"]["engine_data"]["routed_experts"]["start"] = 1
    server.play(reply(200, document))
    with pytest.raises(RoutedExpertsError):
        connect(transport="dynamo_chat").generate(routed_experts_prompt_start=2)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unknown field `routed_experts_prompt_start`, expected one of `token_data`", True),
        ("Validation: Unsupported parameter(s): `routed_experts_prompt_start`", True),
        ("Validation: Unsupported parameter(s): `bar`, `routed_experts_prompt_start`", True),
        ("routed_experts_prompt_start: Extra inputs are not permitted", True),
        ("unknown field `foo`, expected one of `token_data`, `routed_experts_prompt_start`", False),
        ("Validation: Unsupported parameter(s): `foo`", False),
        ("Invalid request", False),
    ],
)
def test_which_refusals_name_the_field(message: str, expected: bool) -> None:
    assert names_prompt_start(json.dumps({"message": message})) is expected


def test_generate_through_dynamo(connect: Connect, server: RawServer, recorded: Recorded) -> None:
    """Its frontend refuses a start that is not within the prompt, vLLM allows the one behind it."""
    server.play(reply(200, recorded("generate_prompt_start")))
    routed = connect().generate(routed_experts_prompt_start=3, sampling_params={"logprobs": 0}).routed_experts
    assert routed is not None
    assert (routed.start, len(routed.array)) == (3, 5)
    assert server.requests[0].json["sampling_params"]["routed_experts_prompt_start"] == 3
