"""Every way to decode a body that is measured: what trainers run today, what an expert would write, and this library.

A contender turns a body into :class:`Arrays` from the case's first wanted row on; :func:`contenders` names the ones
that can read a case, today's way first. :func:`prove` holds their arrays against the truth, bit for bit.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jiter
import msgspec
import numpy as np
import orjson
import pybase64
import renderers.client
import simdjson

import dynamo_tito as tito
from benches.cases import Case, Truth
from dynamo_tito._types import Int32Array, LogprobArray


class Arrays(NamedTuple):
    """What is wanted of a body; of a scored prompt only its log-probabilities."""

    token_ids: Int32Array | None
    logprobs: LogprobArray | None
    experts: Int32Array | None
    prompt_logprobs: LogprobArray | None = None


Contender: TypeAlias = Callable[[bytes, int], Arrays]
"""``(body, first wanted row)`` to arrays."""

OURS = "dynamo-tito"


def contenders(case: Case, *, full: bool = False) -> dict[str, Contender]:
    """The ways to read a case, today's first and this library last."""
    ours = functools.partial(_ours, case, full)
    if case.scored:
        return {"json": _scored_json, "orjson": _scored_orjson, "msgspec": _scored_msgspec, OURS: ours}
    if case.shape == "vllm":
        return {"renderers + verifiers": _renderers, "trim + re-encode": _reencoded, **_BY_HAND, OURS: ours}
    return {"trim + re-encode": _reencoded, **_BY_HAND, OURS: ours}


def prove(contender: Contender, body: bytes, case: Case, truth: Truth, *, full: bool = False) -> None:
    """Raise unless a contender's arrays are the truth."""
    truth = truth if full else truth.without_prompt(case)
    found = contender(body, 0 if full else case.prompt)
    if case.scored:
        assert _equal(found.prompt_logprobs, truth.prompt_logprobs)
        return
    assert _equal(found.token_ids, truth.token_ids)
    assert _equal(found.logprobs, truth.logprobs)
    assert _equal(found.experts, truth.experts)


def _equal(found: Any, expected: Any) -> bool:
    if found is None or expected is None:
        return found is expected
    same_type = bool(found.dtype == expected.dtype and found.shape == expected.shape)
    return same_type and np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


# ------------------------------------------------------------------------------------------------------ this library


def _ours(case: Case, full: bool, body: bytes, first: int) -> Arrays:  # noqa: FBT001 - bound once, by position
    start = None if full else first
    found = tito.decode(body, wire=case.wire, prompt_len=case.prompt, routed_experts_prompt_start=start)
    experts: Any = None if found.routed_experts is None else found.routed_experts.array
    prompt = None if found.prompt_logprobs is None else found.prompt_logprobs.logprobs
    return Arrays(found.token_ids, found.logprobs, experts, prompt)


# --------------------------------------------------------------------------------------------------------- today's way


def _renderers(body: bytes, first: int) -> Arrays:
    """The functions of renderers, then what verifiers and its trainers do with the blob."""
    choice = renderers.client.parse_generate_response(body)["choices"][0]
    ids = choice["token_ids"]
    logprobs = renderers.client._parse_completion_logprobs(choice, ids)  # noqa: SLF001 - what its client calls
    return _arrays(ids, logprobs, _verified(choice.get("routed_experts"), first))


def _reencoded(body: bytes, first: int) -> Arrays:
    """Clients that trim a response for those behind them, who then decode it."""
    ids, logprobs, experts = _parts(json.loads(body))
    if experts is not None:
        rows, layers, top_k = experts["shape"]
        width = layers * top_k * np.dtype(experts["dtype"]).itemsize
        kept = base64.b64decode(experts["data"])[first * width :]
        experts = {
            **experts,
            "data": base64.b64encode(kept).decode("ascii"),
            "shape": [rows - first, layers, top_k],
            "start": first,
        }
    return _arrays(ids, logprobs, _verified(experts, first))


def _verified(experts: Mapping[str, Any] | None, first: int) -> Int32Array | None:
    if experts is None:
        return None
    rows = np.frombuffer(binascii.a2b_base64(experts["data"]), experts["dtype"]).reshape(experts["shape"])
    return rows[first - experts["start"] :].copy().astype(np.int32)


# ------------------------------------------------------------------------------------------------- documents, whole


def _json(body: bytes, first: int) -> Arrays:
    ids, logprobs, experts = _parts(json.loads(body))
    return _arrays(ids, logprobs, _whole(experts, first, binascii.a2b_base64))


def _orjson(body: bytes, first: int) -> Arrays:
    ids, logprobs, experts = _parts(orjson.loads(body))
    return _arrays(ids, logprobs, _whole(experts, first, functools.partial(pybase64.b64decode, validate=True)))


def _whole(experts: Any, first: int, decode: Callable[[str], bytes]) -> Int32Array | None:
    if experts is None:
        return None
    rows = np.frombuffer(decode(experts["data"]), experts["dtype"]).reshape(experts["shape"])
    return rows[first:].astype(np.int32)


def _parts(document: Any) -> tuple[Any, Any, Any]:
    """Ids, log-probabilities and routed experts of a parsed document."""
    (choice,) = document["choices"]
    data = document["nvext"]["engine_data"] if "nvext" in document else None
    logprobs = None if data is None else data.get("completion_logprobs")
    if logprobs is None:
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    if data is None:
        return choice["token_ids"], logprobs, choice.get("routed_experts")
    return data["completion_token_ids"], logprobs, data.get("routed_experts")


def _arrays(ids: Any, logprobs: Any, experts: Int32Array | None) -> Arrays:
    return Arrays(np.asarray(ids, np.int32), np.asarray(logprobs, np.float64), experts)


# ------------------------------------------------------------- an expert's way: the blob apart, only the wanted rows


def _cut(body: bytes) -> tuple[bytes, memoryview | None]:
    """The document with an empty blob, and the blob."""
    key = b'"routed_experts":{"data":"'
    at = body.find(key)
    if at < 0:
        return body, None
    begin = at + len(key)
    end = body.index(b'"', begin)
    return body[:begin] + body[end:], memoryview(body)[begin:end]


def _tail(text: memoryview | None, experts: Any, first: int) -> Int32Array | None:
    """Decodes from the first wanted row on."""
    if text is None:
        return None
    rows, layers, top_k = experts["shape"]
    dtype = np.dtype(experts["dtype"])
    group, skip = divmod(first * layers * top_k * dtype.itemsize, 3)
    found = pybase64.b64decode(text[4 * group :], validate=True)
    return np.frombuffer(found, dtype, offset=skip).reshape(rows - first, layers, top_k).astype(np.int32)


def _orjson_tail(body: bytes, first: int) -> Arrays:
    document, text = _cut(body)
    ids, logprobs, experts = _parts(orjson.loads(document))
    return _arrays(ids, logprobs, _tail(text, experts, first))


def _jiter_tail(body: bytes, first: int) -> Arrays:
    document, text = _cut(body)
    ids, logprobs, experts = _parts(jiter.from_json(document))
    return _arrays(ids, logprobs, _tail(text, experts, first))


class _Blob(msgspec.Struct):
    data: msgspec.Raw
    shape: tuple[int, int, int]
    start: int
    dtype: str


class _Entry(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Entry]


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    routed_experts: _Blob | None = None


class _EngineData(msgspec.Struct):
    completion_token_ids: list[int]
    completion_logprobs: list[float] | None = None
    routed_experts: _Blob | None = None


class _Nvext(msgspec.Struct):
    engine_data: _EngineData


class _Response(msgspec.Struct):
    choices: list[_Choice]
    nvext: _Nvext | None = None


_RESPONSE = msgspec.json.Decoder(_Response)


def _msgspec_tail(body: bytes, first: int) -> Arrays:
    response = _RESPONSE.decode(body)
    choice = response.choices[0]
    if response.nvext is None:
        ids, logprobs, blob = choice.token_ids, None, choice.routed_experts
    else:
        data = response.nvext.engine_data
        ids, logprobs, blob = data.completion_token_ids, data.completion_logprobs, data.routed_experts
    if logprobs is None:
        assert choice.logprobs is not None
        logprobs = [entry.logprob for entry in choice.logprobs.content]
    if blob is None:
        return _arrays(ids, logprobs, None)
    shape = {"shape": blob.shape, "dtype": blob.dtype}
    return _arrays(ids, logprobs, _tail(memoryview(blob.data)[1:-1], shape, first))


class _PerThread(threading.local):
    """A parser whose memory is used again; it may hold one document at a time."""

    def __init__(self) -> None:
        self.parser: Any = simdjson.Parser()


_SIMDJSON = _PerThread()


def _simdjson_tail(body: bytes, first: int) -> Arrays:
    document, text = _cut(body)
    parsed = _SIMDJSON.parser.parse(document)
    choice = parsed.at_pointer("/choices/0")
    data = parsed["nvext"]["engine_data"] if "nvext" in parsed else None
    source = choice if data is None else data
    key = "token_ids" if data is None else "completion_token_ids"
    ids = np.frombuffer(source[key].as_buffer(of_type="i"), np.int64).astype(np.int32)
    if data is not None and "completion_logprobs" in data:
        logprobs = np.frombuffer(data["completion_logprobs"].as_buffer(of_type="d"), np.float64).copy()
    else:
        logprobs = np.asarray([entry["logprob"] for entry in choice["logprobs"]["content"]], np.float64)
    experts = None if text is None else source["routed_experts"].as_dict()
    return Arrays(ids, logprobs, _tail(text, experts, first))


_BY_HAND: dict[str, Contender] = {
    "json": _json,
    "orjson + pybase64": _orjson,
    "orjson, blob apart": _orjson_tail,
    "jiter, blob apart": _jiter_tail,
    "msgspec, typed": _msgspec_tail,
    "pysimdjson, blob apart": _simdjson_tail,
}


# --------------------------------------------------------------------------------------------------- scored prompts


def _scored_json(body: bytes, _first: int) -> Arrays:
    return _scores(*_scored_parts(json.loads(body)))


def _scored_orjson(body: bytes, _first: int) -> Arrays:
    return _scores(*_scored_parts(orjson.loads(body)))


def _scored_parts(document: Any) -> tuple[list[int], Iterable[float]]:
    source = document["nvext"]["engine_data"] if "nvext" in document else document
    ids = source["prompt_token_ids"]
    pairs = zip(ids[1:], source["prompt_logprobs"][1:], strict=True)
    return ids, (entries[str(token)]["logprob"] for token, entries in pairs)


class _Scored(msgspec.Struct):
    prompt_logprobs: list[dict[str, _Entry] | None] | None = None
    prompt_token_ids: list[int] | None = None


class _ScoredNvext(msgspec.Struct):
    engine_data: _Scored


class _ScoredResponse(_Scored):
    nvext: _ScoredNvext | None = None


_SCORED = msgspec.json.Decoder(_ScoredResponse)


def _scored_msgspec(body: bytes, _first: int) -> Arrays:
    response = _SCORED.decode(body)
    source = response if response.nvext is None else response.nvext.engine_data
    ids, positions = source.prompt_token_ids, source.prompt_logprobs
    assert ids is not None
    assert positions is not None
    pairs = zip(ids[1:], positions[1:], strict=True)
    return _scores(ids, (entries[str(token)].logprob for token, entries in pairs if entries is not None))


def _scores(ids: list[int], logprobs: Iterable[float]) -> Arrays:
    """The first token of a prompt has no log-probability."""
    found = np.empty(len(ids))
    found[0] = np.nan
    found[1:] = list(logprobs)
    return Arrays(None, None, None, found)
