"""Ceilings of the caller: their effect, their errors, and their range."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import Limits, Wire
from support.small import BODIES, CHAT, swap

IDS = b'{"choices":[{"token_ids":[1,2,3]}]}'
OPTIONS: dict[str, Any] = {"wire": "vllm_generate", "require_logprobs": False}


def decodings(body: bytes, **options: Any) -> list[Any]:
    """The results of both functions."""
    return [tito.decode(body, **OPTIONS, **options), *tito.decode_choices(body, **OPTIONS, **options)]


def refused(body: bytes, limits: Limits, kind: type[tito.DecodeError] = tito.MalformedBodyError) -> tito.DecodeError:
    errors = []
    for decode in (tito.decode, tito.decode_choices):
        with pytest.raises(kind) as caught:
            decode(body, limits=limits, **OPTIONS)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    return errors[0]


@pytest.mark.parametrize("max_depth", [16, 127, 128, 129, 256, 512])
def test_depth(max_depth: int) -> None:
    def nested(depth: int) -> bytes:
        return b'{"usage":{"a":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}," + IDS[1:]

    limits = Limits(max_depth=max_depth)
    for one in decodings(nested(max_depth), limits=limits):
        depth, value = 0, one.usage["a"]
        while value:
            depth, value = depth + 1, value[0]
        assert depth == max_depth - 3
    error = refused(nested(max_depth + 1), limits)
    assert (error.kind, error.path) == ("too_deep", "")
    said = f"{max_depth + 1} brackets are open, more than {max_depth} (raised with limits=Limits(max_depth=...))"
    assert str(error).startswith(said)


def test_scoring() -> None:
    body = b'{"prompt_logprobs":[null,{"2":{"logprob":-1}},{"3":{"logprob":-1}}],"choices":[{"token_ids":[1]}]}'
    options: dict[str, Any] = {"wire": "vllm_generate", "prompt_token_ids": [1, 2, 3]}
    assert len(tito.decode_prompt_logprobs(body, limits=Limits(max_tokens=3), **options).logprobs) == 3
    with pytest.raises(tito.MalformedBodyError, match="max_tokens"):
        tito.decode_prompt_logprobs(body, limits=Limits(max_tokens=2), **options)


NAMES = [field.name for field in dataclasses.fields(Limits)]


def test_the_names_and_their_defaults() -> None:
    assert dataclasses.asdict(Limits()) == {
        "max_response_bytes": 1 << 30,
        "max_decompressed_bytes": 1 << 30,
        "max_header_bytes": 1 << 16,
        "max_error_bytes": 1 << 16,
        "max_tokens": 1 << 24,
        "max_rows": 1 << 24,
        "max_depth": 128,
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1 << 63, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_what_a_ceiling_may_be(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [15, 513, 1 << 40])
def test_what_a_depth_may_be(value: int) -> None:
    with pytest.raises(ValueError, match="max_depth must be 16 to 512"):
        Limits(max_depth=value)


def test_the_largest_ceilings() -> None:
    limits = Limits(**dict.fromkeys(NAMES, (1 << 63) - 1) | {"max_depth": 512})
    assert all(one.token_ids.tolist() == [1, 2, 3] for one in decodings(IDS, limits=limits))


@pytest.mark.parametrize("wrong", [7, {"max_tokens": 2}, "128", object()])
def test_what_are_no_limits(wrong: Any) -> None:
    for decode in (tito.decode, tito.decode_choices):
        with pytest.raises(TypeError, match="limits must be a Limits, not "):
            decode(b"never parsed", limits=wrong, **OPTIONS)
    with pytest.raises(TypeError, match="limits must be a Limits, not "):
        tito.decode_prompt_logprobs(b"never parsed", wire="vllm_generate", prompt_token_ids=[1], limits=wrong)
    with pytest.raises(TypeError, match="limits must be a Limits, not "):
        tito.TitoClient("http://h", model="m", limits=wrong)


def test_they_are_values() -> None:
    limits = Limits(max_tokens=5)
    assert pickle.loads(pickle.dumps(limits)) == limits
    assert limits != Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.max_tokens = 6  # type: ignore[misc]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("wire", BODIES)
def test_two_million_brackets_are_refused_at_the_first_too_many(wire: Wire, opening: bytes) -> None:
    with pytest.raises(tito.MalformedBodyError) as caught:
        tito.decode(b'{"x":' + opening * 2_000_000, wire=wire)
    assert (caught.value.kind, caught.value.path) == ("too_deep", "")
    assert caught.value.offset == 5 + 127 * len(opening)


def test_choices() -> None:
    choice = b'{"token_ids":[]}'
    with pytest.raises(tito.MalformedBodyError) as caught:
        tito.decode_choices(b'{"choices":[' + b",".join([choice] * 4097) + b"]}", wire="vllm_generate")
    assert (caught.value.kind, caught.value.path) == ("too_many", "choices")
    body = b'{"choices":[' + b",".join([choice] * 4096) + b"]}"
    assert len(tito.decode_choices(body, wire="vllm_generate")) == 4096


def test_metadata() -> None:
    def usage(text: bytes) -> bytes:
        return swap(CHAT, b'"usage":{"prompt_tokens":3}', b'"usage":{' + text + b"}")

    def members(count: int) -> bytes:
        return b",".join(b'"k%d":%d' % (member, member) for member in range(count))

    assert len(tito.decode(usage(members(500)), wire="dynamo_chat").usage or ()) == 500
    for text, kind in ((members(512), "too_many"), (b'"x":"' + b"y" * (1 << 20) + b'"', "too_large")):
        with pytest.raises(tito.MalformedBodyError) as caught:
            tito.decode(usage(text), wire="dynamo_chat")
        assert (caught.value.kind, caught.value.path) == (kind, "usage")


def test_a_quoted_error_body_is_cut() -> None:
    body = b'{"error":{"message":"' + b"x" * 100_000 + b'"}}'
    with pytest.raises(tito.ServerError) as caught:
        tito.decode(body, wire="vllm_generate")
    assert caught.value.body == body[:4096].decode()
    assert len(str(caught.value)) < 2000
