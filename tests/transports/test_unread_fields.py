"""Fields that ask for what the decoder does not read are refused before anything is sent."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito._config import RendererTransport

TRANSPORTS = get_args(RendererTransport)
FIELDS: list[tuple[str, Any]] = [
    ("token_ids_logprob", [7, 8]),
    ("token_ids_logprob", np.array([7, 8])),
    ("return_flat_raw_top_logprobs", True),
    ("prompt_logprob_token_ids", [7, 8]),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("field", "value"), FIELDS)
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
            tito.encode_request(transport, model="m", prompt_ids=[1, 2], **place)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("value", [None, False])
def test_what_asks_for_nothing_is_sent(transport: RendererTransport, value: Any) -> None:
    fields = {field: value for field, _ in FIELDS}
    assert tito.encode_request(transport, model="m", prompt_ids=[1, 2], extra_body=fields)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_scoring_refuses_them_too(transport: RendererTransport) -> None:
    with (
        tito.TitoClient("http://127.0.0.1:9", model="m", transport=transport, preflight=False) as client,
        pytest.raises(ValueError, match="token_ids_logprob cannot be given"),
    ):
        client.score([1, 2, 3], extra_body={"token_ids_logprob": [7]})
