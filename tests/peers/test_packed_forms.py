"""prime-rl's packed forms, read by the code that prime-rl reads them with: the parsers of renderers, at one version."""

from __future__ import annotations

import base64
import copy
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from support import packed

VERSION = "0.1.13.dev17"


def installed() -> str:
    return importlib.metadata.version("renderers") if importlib.util.find_spec("renderers") else "none"


pytestmark = pytest.mark.skipif(
    installed() != VERSION, reason=f"renderers {VERSION} is compared with, {installed()} is installed"
)

SEEDS = range(4)
HEAD = 5
"""What their client asks for; it asks the server for two more."""


@pytest.fixture
def theirs() -> Any:
    import renderers.client  # noqa: PLC0415 - not everywhere

    return renderers.client


def invented(seed: int, **shape: Any) -> packed.PackedSample:
    return packed.invent(seed, prompt=5, completion=64 + seed, candidates=HEAD + 2, **shape)


def written(sample: packed.PackedSample, **forms: Any) -> bytes:
    return json.dumps(packed.answer(sample, **forms), separators=(",", ":")).encode()


def decoded(body: bytes, **options: Any) -> tito.Completion:
    return tito.decode(body, wire="vllm_generate", prompt_len=5, **options)


def parsed(theirs: Any, body: bytes) -> tuple[dict[str, Any], list[int]]:
    (choice,) = theirs.parse_generate_response(body)["choices"]
    return choice, choice["token_ids"]


@pytest.mark.parametrize("seed", SEEDS)
def test_log_probabilities(theirs: Any, seed: int) -> None:
    body = written(invented(seed))
    choice, ids = parsed(theirs, body)
    completion = decoded(body)
    np.testing.assert_array_equal(completion.token_ids, ids)
    np.testing.assert_array_equal(completion.logprobs, theirs._parse_completion_logprobs(choice, ids))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_candidates(theirs: Any, seed: int, masked: bool) -> None:
    body = written(invented(seed, masked=masked), rows=True, mask=masked)
    choice, ids = parsed(theirs, body)
    logprobs, top_ids, top_logprobs = theirs._parse_compact_logprobs(choice, ids, HEAD)
    completion = decoded(body)
    np.testing.assert_array_equal(completion.logprobs, logprobs)
    assert completion.top_logprobs is not None
    for names, values, (mine, scores) in zip(top_ids, top_logprobs, completion.top_logprobs, strict=True):
        # Theirs are ranked and cut; what sampling cut off is NaN here.
        best = [at for at in np.argsort(-scores, kind="stable").tolist() if not np.isnan(scores[at])][: len(names)]
        assert names == mine[best].tolist()
        assert values == scores[best].tolist()
        assert masked or len(mine) == HEAD + 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sampling_mask(theirs: Any, seed: int) -> None:
    body = written(invented(seed, masked=True), mask=True)
    choice, ids = parsed(theirs, body)
    mask = decoded(body).sampling_mask
    assert mask is not None
    assert [row.tolist() for row in mask] == theirs._parse_sampling_mask(choice, ids)


def test_routed_experts(theirs: Any) -> None:
    sample = invented(0, layers=4, top_k=2)
    body = written(sample)
    choice, _ = parsed(theirs, body)
    experts = decoded(body).routed_experts
    assert experts is not None
    # Their client hands the base64 on, spliced out of the body.
    data = np.frombuffer(base64.b64decode(choice["routed_experts"]["data"]), np.uint8)
    np.testing.assert_array_equal(experts.array, data.reshape(choice["routed_experts"]["shape"]))
    np.testing.assert_array_equal(experts.array, sample.experts)


def _data(choice: dict[str, Any], key: str, change: Callable[[bytearray], object], part: str | None = None) -> None:

    place = choice[key] if part is None else choice[key][part]
    data = bytearray(base64.b64decode(place["data"]))
    change(data)
    place["data"] = base64.b64encode(data).decode()


def _float(at: int, value: float) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at : at + 4] = np.float32(value).tobytes()

    return change


def _word(at: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at : at + 4] = value.to_bytes(4, "little", signed=value < 0)

    return change


FLAT: dict[str, Callable[[dict[str, Any]], None]] = {
    "no evidence": lambda choice: _data(choice, "completion_logprobs", _float(8, packed.MASKED)),
    "not a number": lambda choice: _data(choice, "completion_logprobs", _float(8, np.nan)),
    "minus infinity": lambda choice: _data(choice, "completion_logprobs", _float(8, -np.inf)),
    "a value too few": lambda choice: choice["token_ids"].append(1),
    "half a value": lambda choice: _data(choice, "completion_logprobs", lambda data: data.pop()),
}
ROWS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another format": lambda choice: choice["compact_logprobs"].update(format="u32-f32-le-v2"),
    "an offset too few": lambda choice: choice["compact_logprobs"]["offsets"].pop(),
    "an empty row": lambda choice: choice["compact_logprobs"]["offsets"].__setitem__(1, 0),
    "not from 0": lambda choice: choice["compact_logprobs"]["offsets"].__setitem__(0, 1),
    "the sampled token is in no row": lambda choice: choice["token_ids"].__setitem__(3, 151_935),
    "a value above 0": lambda choice: _data(choice, "compact_logprobs", lambda data: _float(len(data) - 4, 0.5)(data)),
    "a repeated token with two values": lambda choice: _data(
        choice, "compact_logprobs", lambda data: _float(len(data) // 2, -7.5)(data)
    ),
    "a byte too many": lambda choice: _data(choice, "compact_logprobs", lambda data: data.append(0)),
}
MASK: dict[str, Callable[[dict[str, Any]], None]] = {
    "a negative id": lambda choice: _data(choice, "sampling_mask", _word(0, -1), "ids"),
    "a count too high": lambda choice: _data(choice, "sampling_mask", _word(0, 99), "counts"),
    "int64": lambda choice: choice["sampling_mask"]["ids"].update(dtype="int64"),
    "another shape": lambda choice: choice["sampling_mask"]["ids"].update(shape=[1]),
    "no counts": lambda choice: choice["sampling_mask"].pop("counts"),
    "the sampled token is not in it": lambda choice: choice["token_ids"].__setitem__(3, 151_935),
}


@pytest.mark.parametrize(
    ("form", "change"),
    [(form, change) for form, changes in (("flat", FLAT), ("rows", ROWS), ("mask", MASK)) for change in changes],
)
def test_what_their_reader_refuses_is_refused(theirs: Any, form: str, change: str) -> None:
    document = packed.answer(invented(0, masked=form == "mask"), rows=form == "rows", mask=form == "mask")
    broken = copy.deepcopy(document)
    {"flat": FLAT, "rows": ROWS, "mask": MASK}[form][change](broken["choices"][0])
    readers: dict[str, Callable[[Any, list[int]], Any]] = {
        "flat": theirs._parse_completion_logprobs,
        "rows": lambda choice, ids: theirs._parse_compact_logprobs(choice, ids, HEAD),
        "mask": theirs._parse_sampling_mask,
    }
    for body, fine in ((document, True), (broken, False)):
        text = json.dumps(body).encode()
        choice, ids = parsed(theirs, text)
        if fine:
            readers[form](choice, ids)
            decoded(text)
            continue
        with pytest.raises((theirs.MalformedGenerateResponseError, ValueError)):
            readers[form](choice, ids)
        with pytest.raises(tito.TitoError):
            decoded(text, require_logprobs=form != "mask")
