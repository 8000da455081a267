"""Time to write a request of 100,000 token ids."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import orjson

import dynamo_tito as tito
from benches.measure import Table, interleave, milliseconds, ratio, times_faster
from benches.rivals import OURS

_TOKENS = 100_000
_SAMPLING = {"max_tokens": 16_384, "temperature": 1.0, "logprobs": 1}
_URL = "http://127.0.0.1/inference/v1/generate"


def tables(rounds: int) -> Iterator[Table]:
    """Every way to write the same body."""
    ids = np.random.RandomState(0).randint(0, 151_936, _TOKENS).astype(np.int32)
    listed = ids.tolist()
    ours = functools.partial(tito.encode_request, "vllm_generate", model="m", prompt_ids=ids, sampling_params=_SAMPLING)
    document: dict[str, Any] = json.loads(ours())
    from_list = functools.partial(ours, prompt_ids=listed)
    (key,) = (key for key, value in document.items() if value == listed)
    with_array = {**document, key: ids}
    calls: dict[str, Callable[[], Any]] = {
        "httpx, json=": lambda: httpx.Request("POST", _URL, json=document).content,
        "json.dumps": lambda: json.dumps(document).encode(),
        "orjson, list": lambda: orjson.dumps(document),
        "orjson, array": lambda: orjson.dumps(with_array, option=orjson.OPT_SERIALIZE_NUMPY),
        "msgspec, list": lambda: msgspec.json.encode(document),
        f"{OURS}, list": from_list,
        OURS: ours,
    }
    for name, call in calls.items():
        assert json.loads(call()) == document, name
    times = interleave(calls, rounds)
    rows = []
    for name, column in times.items():
        lead = "" if name == OURS else times_faster(ratio(column, times[OURS]))
        rows.append([name, lead, milliseconds(statistics.median(column)), milliseconds(min(column))])
    note = f"A body of {_TOKENS:,} token ids for `/inference/v1/generate`; an int32 array unless it says list."
    yield Table("Requests", ["written by", f"{OURS} is faster by", "median ms", "best ms"], rows, note, times)
