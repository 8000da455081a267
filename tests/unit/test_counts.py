"""Recorded counts agree with the requests, and one missing route is found wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import RoutedExpertsError, Wire
from support.bodies import routing_object
from support.small import with_experts

DATA = Path(__file__).parents[1] / "data"
REAL = DATA / "captures_vllm"


@pytest.mark.parametrize(
    ("name", "wire", "start", "total"),
    [("echo_and_start7_generate", "vllm_generate", 7, 13), ("drive_chat_start_5", "vllm_chat", 5, 21)],
)
def test_trimmed_rows_are_placed_by_the_echo(name: str, wire: Wire, start: int, total: int) -> None:
    body = (REAL / f"{name}.json").read_bytes()
    routed = tito.decode(body, wire=wire, routed_experts_prompt_start=start).routed_experts
    assert routed is not None
    assert (routed.start, routed.complete, routed.start + len(routed.array)) == (start, True, total)
    for asked in (None, 0):
        with pytest.raises(RoutedExpertsError) as caught:
            tito.decode(body, wire=wire, routed_experts_prompt_start=asked)
        assert caught.value.kind == "rows"
    for asked in (start - 1, start + 1):
        with pytest.raises(RoutedExpertsError) as caught:
            tito.decode(body, wire=wire, routed_experts_prompt_start=asked)
        assert caught.value.kind == "trim"


def recorded() -> Iterator[tuple[str, Wire, bytes, list[int] | None]]:
    """Every recorded answer of a token wire, with the prompt that was sent where it was sent as ids."""
    wires = {
        "/inference/v1/generate": "vllm_generate",
        "/v1/chat/completions": "chat",
        "/v1/completions": "dynamo_completions",
        "/generate": "sglang_generate",
    }
    chat: Any
    for folder, chat in ((DATA / "captures", "dynamo_chat"), (REAL, "vllm_chat")):
        for name, entry in json.loads((folder / "index.json").read_bytes()).items():
            request = entry.get("request", entry)
            wire: Any = wires.get(request.get("path", ""))
            if wire is None or not name.endswith(".json") or entry.get("status", 200) != 200:
                continue
            if wire == "dynamo_completions" and chat == "vllm_chat":
                continue
            sent = request.get("body")
            if isinstance(sent, str):
                # Long ones are recorded with dots in the middle.
                sent = json.loads(sent) if sent.startswith("{") and "..." not in sent else None
            ids: Any = None
            if isinstance(sent, dict):
                nvext = sent.get("nvext") or {}
                ids = sent.get("token_ids") or sent.get("input_ids") or sent.get("prompt") or nvext.get("token_data")
            whole = isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**31 for token in ids)
            yield name, chat if wire == "chat" else wire, (folder / name).read_bytes(), ids if whole else None


def test_every_recorded_count_agrees() -> None:
    prompts = completions = choices = 0
    for name, wire, body, ids in recorded():
        options: dict[str, Any] = {"require_logprobs": False, "experts": "skip", "prompt_token_ids": ids}
        found, refusal = decoded(body, wire=wire, **options)
        assert "_tokens" not in refusal, name
        if not found:
            continue
        usage = found[0].usage or {}
        echo = found[0].prompt_token_ids
        prompt = ids if echo is None else echo
        if "prompt_tokens" in usage and prompt is not None:
            assert usage["prompt_tokens"] == len(prompt), name
            prompts += 1
        if "completion_tokens" in usage:
            assert usage["completion_tokens"] == sum(len(one.token_ids) for one in found), name
            completions += 1
            choices += len(found) > 1
    assert prompts >= 100
    assert completions >= 100
    assert choices >= 3


def decoded(body: bytes, **options: Any) -> tuple[list[tito.Completion], str]:
    """The choices, or the path of the refusal."""
    try:
        return tito.decode_choices(body, **options), ""
    except tito.DecodeError as error:
        return [], error.path
    except tito.ServerError:
        return [], "server"


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
@pytest.mark.parametrize("experts", ["int32", "native", "out"])
@pytest.mark.parametrize("rows", [4, 1000, 300_000])
@pytest.mark.parametrize("at", [0, 0.3, 1])
def test_a_slot_without_a_route_is_refused(dtype: str, experts: str, rows: int, at: float) -> None:
    array = np.arange(rows * 2).astype(dtype).reshape(rows, 1, 2) & 0x7FF
    spot = int(at * (array.size - 1))
    array.flat[spot] = -1
    body = with_experts(json.dumps(routing_object(array)).encode())
    options: dict[str, Any] = {"experts": experts}
    if experts == "out":
        options = {"experts_out": np.empty(array.size, np.int32)}
    place = rf"position {spot // 2}, layer 0, slot {spot % 2}:"
    with pytest.raises(RoutedExpertsError, match=place) as caught:
        tito.decode(body, wire="vllm_generate", routed_experts_prompt_start=0, **options)
    assert (caught.value.kind, caught.value.path) == ("no_route", "choices[0].routed_experts")
