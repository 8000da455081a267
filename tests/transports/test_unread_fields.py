"""Request fields that add data which the decoder does not read are refused before anything is sent."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport
from dynamo_tito._requests.unread import _FIELDS

TRANSPORTS = get_args(RendererTransport)
FIELDS: list[tuple[str, Any]] = [
    ("token_ids_logprob", np.array([7, 8])),
    *((name, True if name.startswith("return_") else [7, 8]) for name in _FIELDS),
]


def encoded(transport: RendererTransport, **arguments: Any) -> bytes:
    model = None if transport == "sglang_generate" else "m"
    return tito.encode_request(transport, model=model, prompt_ids=[1, 2], **arguments)


REFUSED = [
    (transport, field, value)
    for transport in TRANSPORTS
    for field, value in FIELDS
    if transport not in _FIELDS[field].read_on
]


@pytest.mark.parametrize(("transport", "field", "value"), REFUSED)
def test_in_every_place(transport: RendererTransport, field: str, value: Any) -> None:
    places: list[dict[str, Any]] = [
        {"sampling_params": {field: value}},
        {"extra_body": {field: value}},
    ]
    if transport in ("vllm_generate", "sglang_generate"):
        places.append({"extra_body": {"sampling_params": {field: value}}})
    if transport.startswith("dynamo"):
        places.append({"extra_body": {"nvext": {field: value}}})
    for place in places:
        with pytest.raises(ValueError, match=f"{field} cannot be given: .* is not read"):
            encoded(transport, **place)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("value", [None, False])
def test_what_asks_for_nothing_is_sent(transport: RendererTransport, value: Any) -> None:
    fields = {field: value for field, _ in FIELDS}
    assert encoded(transport, extra_body=fields)


@pytest.mark.parametrize(
    ("transport", "field", "read", "unread"),
    [
        ("vllm_generate", "output_mode", "tokens", "text"),
        ("vllm_generate", "output_mode", "tokens", "derender"),
        ("sglang_generate", "sampling_logprobs_mode", "selected", "support"),
    ],
)
def test_another_form_of_the_answer(transport: RendererTransport, field: str, read: str, unread: str) -> None:
    assert json.loads(encoded(transport, extra_body={field: read}))[field] == read
    with pytest.raises(ValueError, match=f"{field} must be '{read}', not '{unread}'"):
        encoded(transport, extra_body={field: unread})


@pytest.mark.parametrize("transport", sorted(set(TRANSPORTS) - {"sglang_chat"}))
def test_scoring_refuses_them_too(transport: RendererTransport) -> None:
    with (
        tito.TitoClient("http://127.0.0.1:9", model="m", transport=transport, preflight=False) as client,
        pytest.raises(ValueError, match="token_ids_logprob cannot be given"),
    ):
        client.score([1, 2, 3], extra_body={"token_ids_logprob": [7]})
