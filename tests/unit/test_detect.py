"""``detect_wire`` on every recorded answer that decodes, and on what is no answer."""

from __future__ import annotations

import json

import pytest

import dynamo_tito as tito
from support.cases import CASES, body_of

DECODED = [case for case in CASES if "expect" in case and "file" in case]


@pytest.mark.parametrize("case", DECODED, ids=lambda case: case["name"])
def test_a_recorded_answer_is_of_a_wire_that_decodes_it(case: dict[str, object]) -> None:
    body = body_of(case)
    wire, why = tito.detect_wire(body)
    assert why
    if wire != case["wire"]:
        # Some answers decode as another server's, which shares the keys that are there.
        tito.decode_choices(body, wire=wire, require_logprobs=False, experts="skip")


@pytest.mark.parametrize(
    ("document", "wire"),
    [
        ([{"output_ids": []}], "sglang_generate"),
        ({"choices": [{"response_token_ids": [1], "message": {}}]}, "sglang_chat"),
        ({"choices": [{"text": "", "token_ids": [1]}]}, "vllm_completions"),
        ({"choices": [{"text": ""}], "nvext": {}}, "dynamo_completions"),
        ({"choices": [{"message": {}}], "nvext": {}}, "dynamo_chat"),
        ({"choices": [{"message": {}, "token_ids": [1]}], "nvext": None}, "vllm_chat"),
        ({"choices": [{"token_ids": [1]}]}, "vllm_generate"),
    ],
)
def test_the_keys_say_the_wire_whole_and_streamed(document: object, wire: str) -> None:
    text = json.dumps(document)
    assert tito.detect_wire(text.encode())[0] == wire
    assert tito.detect_wire(f": hello\n\ndata: {text}\r\n\r\ndata: [DONE]\n\n".encode())[0] == wire


@pytest.mark.parametrize(
    ("body", "kind"), [(b"", "syntax"), (b"{", "syntax"), (b"{}", "wire"), (b"data: {\n\n", "wire")]
)
def test_what_is_no_answer_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(tito.MalformedBodyError) as caught:
        tito.detect_wire(body)
    assert caught.value.kind == kind
