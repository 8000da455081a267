"""What is not read: it refuses nothing that it does not contradict, and routed experts are not dropped in silence."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, MalformedBodyError, MissingFieldError, RoutedExpertsError, Wire
from support.small import BODIES, CHAT, CHAT_CONTENT, COMPLETIONS, EXPERTS, GENERATE, refused, swap


def entries(*ids: int) -> list[dict[str, Any]]:
    return [{"token": "a", "token_id": token, "logprob": -1.0, "bytes": None, "top_logprobs": []} for token in ids]


def chat(content: Any, ids: list[int], logprobs: list[float] | None) -> bytes:
    """An answer with engine data beside the entries of the choice."""
    engine: dict[str, Any] = {"completion_token_ids": ids, "finished": True}
    if logprobs is not None:
        engine["completion_logprobs"] = logprobs
    choice = {"index": 0, "finish_reason": "stop", "logprobs": {"content": content}}
    return json.dumps({"choices": [choice], "nvext": {"engine_data": engine}}).encode()


class TestChatEcho:
    @pytest.mark.parametrize("kept", [[5, 6], [6, 7], [5, 7], [7], [], [5, 6, 7, 8], [8, 8, 8, 8]])
    def test_of_another_length_is_left_out(self, kept: list[int]) -> None:
        completion = tito.decode(chat(entries(*kept), [5, 6, 7], [-1.0, -2.0, -3.0]), wire="dynamo_chat")
        assert completion.logprobs is not None
        assert completion.logprobs.tolist() == [-1, -2, -3]
        assert completion.top_logprobs is None
        path = "choices[0].logprobs.content"
        assert completion.sources["logprobs_echo"] == f"left out: {path} has {len(kept)} entries for 3 token ids"

    def test_of_the_same_length_refuses_other_tokens(self) -> None:
        body = chat(entries(5, 7, 6), [5, 6, 7], [-1.0, -2.0, -3.0])
        path = "choices[0].logprobs.content[1].token_id"
        refused(body, AlignmentError, kind="identity", path=path, at=b"7", wire="dynamo_chat")

    def test_that_agrees_is_not_spoken_of(self) -> None:
        completion = tito.decode(chat(entries(5, 6), [5, 6], [-1.0, -2.0]), wire="dynamo_chat")
        assert "logprobs_echo" not in completion.sources

    @pytest.mark.parametrize(
        "content",
        [
            7,
            {},
            "x",
            [7],
            [{"token": 7, "logprob": -1}],
            [{"logprob": "x"}],
            [{"token_id": 5}],
            [{"token_id": -1, "logprob": -1}],
            [{"logprob": -1, "top_logprobs": 7}],
        ],
    )
    def test_that_cannot_be_read_is_left_out(self, content: Any) -> None:
        completion = tito.decode(chat(content, [5], [-1.0]), wire="dynamo_chat")
        assert completion.sources["logprobs_echo"] == "left out: choices[0].logprobs.content cannot be read"
        with pytest.raises(tito.DecodeError):
            tito.decode(chat(content, [5], None), wire="dynamo_chat")

    def test_beside_empty_lists_is_a_completion_of_no_tokens(self) -> None:
        completion = tito.decode(chat(entries(5, 6), [], []), wire="dynamo_chat")
        assert completion.token_ids.tolist() == []
        assert completion.logprobs is not None
        assert completion.logprobs.tolist() == []
        assert "has 2 entries for 0 token ids" in completion.sources["logprobs_echo"]

    def test_that_was_chosen_is_no_echo(self) -> None:
        body = chat(entries(6, 7), [5, 6, 7], None)
        path = "choices[0].logprobs.content"
        refused(body, AlignmentError, kind="count", path=path, wire="dynamo_chat")
        refused(chat(entries(5), [], None), AlignmentError, kind="count", path=path, wire="dynamo_chat")


class TestCompletionsEcho:
    @pytest.mark.parametrize(
        "tokens", [["token_id:6"], ["token_id:6", "token_id:5", "token_id:7"], [], ["a", "b", "token_id:7"]]
    )
    @pytest.mark.parametrize("engine", [True, False])
    def test_of_another_length_is_left_out(self, tokens: list[str], engine: bool) -> None:
        body = swap(COMPLETIONS, b'["a","b"]', json.dumps(tokens).encode())
        if engine:
            body = swap(body, b'"finished":true', b'"completion_logprobs":[-1,-2]')
        completion = tito.decode(body, wire="dynamo_completions")
        why = f"left out: choices[0].logprobs.tokens has {len(tokens)} entries for 2 token ids"
        assert completion.sources["logprobs_echo"] == why

    @pytest.mark.parametrize("tokens", [b"7", b"{}", b'"x"', b"true"])
    def test_that_cannot_be_read_is_left_out(self, tokens: bytes) -> None:
        completion = tito.decode(swap(COMPLETIONS, b'["a","b"]', tokens), wire="dynamo_completions")
        assert completion.sources["logprobs_echo"] == "left out: choices[0].logprobs.tokens cannot be read"

    def test_of_the_same_length_refuses_other_tokens(self) -> None:
        body = swap(COMPLETIONS, b'["a","b"]', b'[7,"token_id:5"]')
        path = "choices[0].logprobs.tokens[1]"
        refused(body, AlignmentError, kind="identity", path=path, at=b'"token_id:5"', wire="dynamo_completions")


STRAY: list[tuple[Wire, bytes, bytes, str]] = [
    ("dynamo_chat", b'"finish_reason":"stop"', b'"routed_experts":%b', "choices[0].routed_experts"),
    ("dynamo_chat", b'{"id":"c"', b'{"routed_experts":%b', "routed_experts"),
    ("dynamo_completions", b'"finish_reason":"stop"', b'"routed_experts":%b', "choices[0].routed_experts"),
    ("dynamo_completions", b'{"id":"c"', b'{"routed_experts":%b', "routed_experts"),
    ("vllm_generate", b'{"request_id":"r"', b'{"routed_experts":%b', "routed_experts"),
    ("vllm_chat", b'{"id":"c"', b'{"routed_experts":%b', "routed_experts"),
    ("sglang_generate", b'"text":"hi"', b'"routed_experts":%b', "routed_experts"),
]


@pytest.mark.parametrize(("wire", "old", "new", "path"), STRAY)
class TestStrayExperts:
    @pytest.mark.parametrize("value", [EXPERTS, b'"k05VTVBZ"', b"7", b"{}", b'""'])
    @pytest.mark.parametrize("required", [True, False])
    def test_are_not_dropped_in_silence(
        self, wire: Wire, old: bytes, new: bytes, path: str, value: bytes, required: bool
    ) -> None:
        body = swap(BODIES[wire], old, new % value)
        options: dict[str, Any] = {"wire": wire, "require_routed_experts": required}
        refused(body, RoutedExpertsError, kind="unread", path=path, at=value, **options)
        nothing = swap(BODIES[wire], old, new % b"null")
        if not required:
            assert tito.decode(body, wire=wire, experts="skip").routed_experts is None
            assert tito.decode(nothing, wire=wire).routed_experts is None
        else:
            with pytest.raises(MissingFieldError):
                tito.decode(nothing, **options)

    def test_twice(self, wire: Wire, old: bytes, new: bytes, path: str) -> None:
        twice = new.replace(b'"routed_experts":%b', b'"routed_experts":%b,"routed_experts":null')
        body = swap(BODIES[wire], old, twice % EXPERTS)
        refused(body, MalformedBodyError, kind="duplicate_key", path=path, at=b'"routed_experts":null', wire=wire)


def test_stray_experts_of_each_element_of_an_array() -> None:
    whole = BODIES["sglang_generate"]
    body = b"[%b,%b]" % (whole, swap(whole, b'"text":"hi"', b'"routed_experts":7'))
    path = "[1].routed_experts"
    refused(body, RoutedExpertsError, kind="unread", path=path, at=b"7", wire="sglang_generate", several=True)


def test_stray_experts_beside_those_that_are_read_are_a_copy() -> None:
    body = swap(CHAT, b'"finish_reason":"stop"', b'"routed_experts":%b' % EXPERTS)
    body = swap(body, b'"nvext":{', b'"nvext":{"routed_experts":%b,' % EXPERTS)
    completion = tito.decode(body, wire="dynamo_chat", prompt_len=3)
    assert completion.sources["routed_experts"] == "nvext.routed_experts"


class TestText:
    def test_entries_of_text_are_refused_with_the_way_out(self) -> None:
        body = GENERATE.replace(b'"token_id:5"', b'" a"')
        path = "choices[0].logprobs.content[0]"
        error = refused(body, AlignmentError, kind="identity", path=path, at=b'{"token":" a"', wire="vllm_generate")
        assert 'output_mode "tokens"' in str(error)

    def test_entries_without_any_name_are_not_blamed_on_it(self) -> None:
        body = GENERATE.replace(b'"token":"token_id:5",', b"")
        path = "choices[0].logprobs.content[0]"
        error = refused(body, AlignmentError, kind="identity", path=path, wire="vllm_generate")
        assert "output_mode" not in str(error)


@pytest.mark.parametrize("wire", BODIES)
class TestStreams:
    @pytest.mark.parametrize("space", [b"", b" ", b"\n\r\n\t"])
    @pytest.mark.parametrize(
        "begin", [b"data: ", b"data:", b": ping\n\ndata: ", b"event: x\ndata: ", b"id: 7\ndata:", b"retry: 5\n", b":"]
    )
    def test_are_named(self, wire: Wire, space: bytes, begin: bytes) -> None:
        body = space + begin + BODIES[wire] + b"\n\ndata: [DONE]\n\n"
        error = refused(body, MalformedBodyError, kind="event_stream", path="", at=begin, wire=wire)
        assert "server-sent events" in str(error)
        assert "stream=False" in str(error)

    @pytest.mark.parametrize("begin", [b"dat", b"data", b"data ", b"Data:", b"\xef\xbb\xbfdata:"])
    def test_are_told_from_what_only_looks_like_them(self, wire: Wire, begin: bytes) -> None:
        refused(begin, MalformedBodyError, kind="syntax", path="", at=begin, wire=wire)


FINISH: list[tuple[Wire, bytes, bytes]] = [
    *((wire, b'"finish_reason":"stop"', b'"finish_reason":%b') for wire in BODIES if wire != "sglang_generate"),
    ("dynamo_chat", b'"nvext":{', b'"nvext":{"detailed_finish_reason":%b,'),
    ("dynamo_completions", b'"nvext":{', b'"nvext":{"detailed_finish_reason":%b,'),
    ("sglang_generate", b'"type":"stop"', b'"type":%b'),
]


@pytest.mark.parametrize(("wire", "old", "new"), FINISH)
class TestEngineError:
    @pytest.mark.parametrize("reason", [b'"error"', rb'"err\u006fr"'])
    def test_a_failed_engine_vouches_for_nothing(self, wire: Wire, old: bytes, new: bytes, reason: bytes) -> None:
        for body in (BODIES[wire], BODIES[wire].replace(b"5,6]", b"5,6,7]")):
            failed = swap(body, old, new % reason)
            for decode in (tito.decode, tito.decode_choices):
                with pytest.raises(tito.EngineError, match="the engine failed") as raised:
                    decode(failed, wire=wire)
                assert raised.value.status is None
                assert not raised.value.retryable
                assert raised.value.body == failed.decode()
                assert pickle.loads(pickle.dumps(raised.value)).body == raised.value.body

    @pytest.mark.parametrize("reason", [b'"errors"', b'"stop"', b'"Error"'])
    def test_other_reasons_are_kept(self, wire: Wire, old: bytes, new: bytes, reason: bytes) -> None:
        completion = tito.decode(swap(BODIES[wire], old, new % reason), wire=wire)
        assert completion.finish_reason == json.loads(reason)


def test_a_body_without_logprobs_of_a_failed_engine_is_told_as_that() -> None:
    body = b'{"choices":[{"index":0,"token_ids":[5],"finish_reason":"error","logprobs":null}]}'
    with pytest.raises(tito.EngineError):
        tito.decode(body, wire="vllm_generate")


def test_the_chosen_channel_is_still_held_to_its_rules() -> None:
    body = swap(CHAT_CONTENT, b'"nvext":{', b'"nvext":{"engine_data":{"completion_logprobs":[-1]},')
    path = "nvext.engine_data.completion_logprobs"
    refused(body, AlignmentError, kind="count", path=path, wire="dynamo_chat")
    body = swap(CHAT, b"[-0.5,-0.25]", b"[-0.5,null]")
    refused(body, MalformedBodyError, kind="type", path=f"{path}[1]", wire="dynamo_chat")
    with pytest.raises(MissingFieldError):
        tito.decode(swap(CHAT, b'"completion_logprobs"', b'"unread"'), wire="dynamo_chat")
