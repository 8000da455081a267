"""The lengths of prompt and completion: what the caller says, what the body echoes, and what the server counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, RoutedExpertsError, Wire
from support.bodies import Experts, routing_object
from support.small import BODIES, CHAT, COMPLETIONS, GENERATE, SGLANG, VLLM_CHAT, refused, swap

DATA = Path(__file__).parents[1] / "data"
REAL = DATA / "captures_vllm"
USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":2},'
COUNTED: dict[Wire, bytes] = {
    "dynamo_chat": swap(CHAT, b'"usage":{"prompt_tokens":3},', USAGE),
    "dynamo_completions": swap(COMPLETIONS, b'"id":"c",', b'"id":"c",' + USAGE),
    "vllm_generate": swap(GENERATE, b'"request_id":"r",', b'"request_id":"r",' + USAGE),
    "vllm_chat": swap(VLLM_CHAT, b'"id":"c",', b'"id":"c",' + USAGE),
    "sglang_generate": SGLANG,
}
PATH = "choices[0].routed_experts"
WIRES = pytest.mark.parametrize("wire", get_args(Wire))


def place(wire: Wire, name: str) -> str:
    return f"meta_info.{name}" if wire == "sglang_generate" else f"usage.{name}"


@WIRES
@pytest.mark.parametrize("known", [{"prompt_len": 3}, {"prompt_token_ids": [1, 2, 3]}], ids=["length", "ids"])
def test_the_server_ran_the_prompt_that_is_known(wire: Wire, known: dict[str, Any]) -> None:
    assert tito.decode(COUNTED[wire], wire=wire, **known).usage is not None
    for count in (b"0", b"2", b"260", b"-3"):
        body = swap(COUNTED[wire], b'"prompt_tokens":3', b'"prompt_tokens":' + count)
        path = place(wire, "prompt_tokens")
        refused(body, AlignmentError, kind="prompt_mismatch", path=path, wire=wire, **known)


@WIRES
def test_the_server_counts_the_ids(wire: Wire) -> None:
    for count in (b"0", b"1", b"3"):
        body = swap(COUNTED[wire], b'"completion_tokens":2', b'"completion_tokens":' + count)
        refused(body, AlignmentError, kind="count", path=place(wire, "completion_tokens"), wire=wire)


def test_both_sides_are_named() -> None:
    body = swap(COUNTED["vllm_generate"], b'"prompt_tokens":3', b'"prompt_tokens":13313')
    with pytest.raises(AlignmentError, match=r"13313 tokens.* has 3 .*usage\.prompt_tokens"):
        tito.decode(body, wire="vllm_generate", prompt_token_ids=[1, 2, 3])


@WIRES
def test_an_echo_of_another_length_than_prompt_len(wire: Wire) -> None:
    echo = b'"prompt_token_ids":[1,2,3]'
    bodies: dict[Wire, bytes] = {
        "dynamo_chat": CHAT,
        "dynamo_completions": swap(COMPLETIONS, b'"nvext":{', b'"nvext":{' + echo + b","),
        "vllm_generate": swap(GENERATE, b'"request_id":"r",', b'"request_id":"r",' + echo + b","),
        "vllm_chat": VLLM_CHAT,
        "sglang_generate": swap(SGLANG, b'"text":"hi",', b'"text":"hi",' + echo + b","),
    }
    body = bodies[wire]
    assert tito.decode(body, wire=wire, prompt_len=3).prompt_token_ids is not None
    for length in (0, 2, 4):
        with pytest.raises(AlignmentError, match=f"3 tokens, prompt_len is {length}") as caught:
            tito.decode(body, wire=wire, prompt_len=length)
        assert caught.value.kind == "prompt_mismatch"


class TestRecorded:
    """A real vLLM trims where it was asked to, and says so nowhere."""

    @pytest.mark.parametrize(
        ("name", "wire", "start", "total"),
        [("echo_and_start7_generate", "vllm_generate", 7, 13), ("drive_chat_start_5", "vllm_chat", 5, 21)],
    )
    def test_trimmed_rows_are_placed_by_the_echo(self, name: str, wire: Wire, start: int, total: int) -> None:
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

    def test_without_the_echo_only_the_callers_word_counts(self) -> None:
        document = json.loads((REAL / "echo_and_start7_generate.json").read_bytes())
        del document["prompt_token_ids"]
        body = json.dumps(document).encode()
        with pytest.raises(ValueError, match=r"pass prompt_len= or prompt_token_ids=") as caught:
            tito.decode(body, wire="vllm_generate")
        assert not isinstance(caught.value, tito.TitoError)
        # The server's count of the prompt contradicts the caller here.
        with pytest.raises(RoutedExpertsError) as wrong:
            tito.decode(body, wire="vllm_generate", routed_experts_prompt_start=0)
        assert wrong.value.kind == "rows"


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


def with_rows(array: Experts) -> bytes:
    blob = json.dumps(routing_object(array)).encode()
    return swap(GENERATE, b'"routed_experts":null', b'"routed_experts":' + blob)


class TestNoRoute:
    """-1 says that no route was captured."""

    @pytest.mark.parametrize("dtype", ["<i2", "<i4"])
    @pytest.mark.parametrize("experts", ["int32", "native", "out"])
    @pytest.mark.parametrize("rows", [4, 1000, 300_000])
    @pytest.mark.parametrize("at", [0, 0.3, 1])
    def test_a_single_slot_is_refused(self, dtype: str, experts: str, rows: int, at: float) -> None:
        array = np.arange(rows * 2).astype(dtype).reshape(rows, 1, 2) & 0x7FF
        spot = int(at * (array.size - 1))
        array.flat[spot] = -1
        body = with_rows(array)
        options: dict[str, Any] = {"experts": experts}
        if experts == "out":
            options = {"experts_out": np.empty(array.size, np.int32)}
        place = rf"position {spot // 2}, layer 0, slot {spot % 2}:"
        with pytest.raises(RoutedExpertsError, match=place) as caught:
            tito.decode(body, wire="vllm_generate", routed_experts_prompt_start=0, **options)
        assert (caught.value.kind, caught.value.path) == ("no_route", PATH)

    def test_rows_that_an_abort_cut_off_are_missing(self) -> None:
        array = np.arange(8, dtype=np.int32).reshape(4, 1, 2)
        array[2:] = -1
        body = with_rows(array)
        refused(body, RoutedExpertsError, kind="no_route", path=PATH, wire="vllm_generate", prompt_len=3)
        body = swap(body, b'"stop"', b'"abort"')
        room = np.zeros(8, np.int32)
        for options in ({}, {"experts": "native"}, {"experts_out": room}):
            routed = tito.decode(body, wire="vllm_generate", prompt_len=3, **options).routed_experts
            assert routed is not None
            assert (routed.start, routed.complete) == (0, False)
            assert np.array_equal(routed.array, array[:2])

    def test_dropped_rows_are_not_looked_at(self) -> None:
        array = np.arange(8, dtype=np.int32).reshape(4, 1, 2)
        array[:2] = -1
        body = with_rows(array)
        routed = tito.decode(body, wire="vllm_generate", prompt_len=3, routed_experts_prompt_start=2).routed_experts
        assert routed is not None
        assert np.array_equal(routed.array, array[2:])


ABORTED: dict[Wire, tuple[bytes, bytes]] = {
    "vllm_generate": (b'"finish_reason":"stop"', b'"finish_reason":"abort"'),
    "vllm_chat": (b'"finish_reason":"stop"', b'"finish_reason":"abort"'),
    "sglang_generate": (b'"type":"stop"', b'"type":"abort"'),
}


def test_an_abort_before_the_first_token_is_no_missing_capture() -> None:
    for wire, body in BODIES.items():
        old, new = ABORTED.get(wire, (b'"nvext":{', b'"nvext":{"detailed_finish_reason":"cancelled",'))
        told = swap(body, old, new)
        path = {"vllm_generate": PATH, "vllm_chat": PATH, "sglang_generate": "meta_info.routed_experts"}.get(
            wire, "nvext.routed_experts"
        )
        refused(told, tito.MissingFieldError, kind="missing", path=path, wire=wire, require_routed_experts=True)
        document = json.loads(told)
        for name in ("token_ids", "completion_token_ids", "completion_logprobs", "output_ids", "completion_tokens"):
            _emptied(document, name)
        completion = tito.decode(json.dumps(document).encode(), wire=wire, require_routed_experts=True)
        assert completion.aborted
        assert completion.routed_experts is None


def _emptied(value: Any, name: str) -> None:
    """Takes away what a completion of no tokens does not have."""
    if isinstance(value, list):
        for one in value:
            _emptied(one, name)
    elif isinstance(value, dict):
        value.pop("logprobs", None)
        value.pop("output_token_logprobs", None)
        if name in value:
            value[name] = 0 if name.endswith("tokens") else []
        for one in value.values():
            _emptied(one, name)
