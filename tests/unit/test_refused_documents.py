"""Refusals of whole documents: syntax, repeated keys, error bodies, structure, choices (rules 1, 2 and 7)."""

from __future__ import annotations

import json

import pytest

import dynamo_tito as tito
from dynamo_tito import MalformedBodyError, MissingFieldError, ServerError, Wire
from support.small import BODIES, CHAT, COMPLETIONS, GENERATE, SGLANG, VLLM_CHAT, refused, swap


@pytest.mark.parametrize("wire", BODIES)
def test_the_undamaged_answers_decode(wire: Wire) -> None:
    completion = tito.decode(BODIES[wire], wire=wire, prompt_len=3)
    assert completion.token_ids.tolist() == [5, 6]
    assert completion.logprobs is not None
    assert completion.logprobs.tolist() == [-0.5, -0.25]
    assert completion.finish_reason == "stop"


class TestSyntax:
    @pytest.mark.parametrize(
        ("name", "body", "at"),
        [
            ("nan", swap(GENERATE, b'"logprob":-0.5', b'"logprob":NaN'), b"NaN"),
            ("infinity", swap(GENERATE, b'"logprob":-0.5', b'"logprob":Infinity'), b"Infinity"),
            ("minus_infinity", swap(GENERATE, b'"logprob":-0.5', b'"logprob":-Infinity'), b"Infinity"),
            ("leading_zero", swap(GENERATE, b"[5,6]", b"[05,6]"), b"5,6]"),
            ("plus_sign", swap(GENERATE, b"[5,6]", b"[+5,6]"), b"+5"),
            ("bare_fraction", swap(GENERATE, b'"logprob":-0.5', b'"logprob":-.5'), b".5"),
            ("trailing_point", swap(GENERATE, b'"logprob":-0.5', b'"logprob":-0.'), b","),
            ("empty_exponent", swap(GENERATE, b'"logprob":-0.5', b'"logprob":-0e'), b","),
            ("trailing_comma_in_array", swap(GENERATE, b"[5,6]", b"[5,6,]"), b"]"),
            ("trailing_comma_in_object", GENERATE[:-1] + b",}", b"}"),
            ("missing_comma", swap(GENERATE, b"[5,6]", b"[5 6]"), b"6]"),
            ("missing_colon", swap(GENERATE, b'"index":0', b'"index" 0'), b"0"),
            ("single_quotes", swap(GENERATE, b'"index":0', b"'index':0"), b"'index"),
            ("unquoted_key", swap(GENERATE, b'"index":0', b"index:0"), b"index"),
            ("comment", swap(GENERATE, b'"index":0', b'/**/"index":0'), b"/**/"),
            ("python_none", swap(GENERATE, b'"sampling_mask":null', b'"sampling_mask":None'), b"None"),
            ("broken_literal", swap(GENERATE, b'"sampling_mask":null', b'"sampling_mask":nul'), b"}"),
            ("control_character", swap(GENERATE, b'"stop"', b'"st\nop"'), b"\nop"),
            ("bad_escape", swap(GENERATE, b'"stop"', rb'"st\xop"'), b"xop"),
            ("bad_unicode_escape", swap(GENERATE, b'"stop"', rb'"st\u00g0"'), b"g0"),
            ("mismatched_brackets", swap(GENERATE, b"[5,6]", b"[5,6}"), b"}"),
            ("byte_order_mark", b"\xef\xbb\xbf" + GENERATE, b"\xef\xbb\xbf"),
            ("utf16", GENERATE.decode().encode("utf-16-le"), b"\x00"),
            ("html", b"<html><body>502 Bad Gateway</body></html>", b"<html"),
            ("in_an_unread_field", swap(GENERATE, b'"bytes":null,"top_logprobs":[]}]', b'"bytes":[1,],"x":0}]'), b"],"),
            ("form_feed_is_no_space", swap(GENERATE, b'"index":0', b'\x0c"index":0'), b"\x0c"),
        ],
    )
    def test_is_refused_at_the_byte_that_breaks_it(self, name: str, body: bytes, at: bytes) -> None:
        assert name
        refused(body, MalformedBodyError, kind="syntax", path="", at=at, wire="vllm_generate")

    @pytest.mark.parametrize(
        "bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x28\xa1", b"\x80"]
    )
    @pytest.mark.parametrize("place", [b'"stop"', b'"request_id"'], ids=["value", "key"])
    def test_bytes_that_are_not_utf8(self, bad: bytes, place: bytes) -> None:
        body = swap(GENERATE, place, place[:-1] + bad + place[-1:])
        refused(body, MalformedBodyError, kind="utf8", path="", at=bad[:1], wire="vllm_generate")

    @pytest.mark.parametrize("body", [b"", b"   ", b"\n", b"{", b'{"choices":[', b'{"request_id":"r'])
    def test_an_end_that_comes_too_soon(self, body: bytes) -> None:
        refused(body, MalformedBodyError, kind="truncated", path="", at=b"", wire="vllm_generate")

    @pytest.mark.parametrize("tail", [b"{}", b"x", b"\x00", b"null", b",", b"data: [DONE]", GENERATE])
    def test_what_follows_the_document(self, tail: bytes) -> None:
        body = GENERATE + b" \r\n\t" + tail
        error = refused(body, MalformedBodyError, kind="trailing_data", path="", wire="vllm_generate")
        assert error.offset == len(body) - len(tail)

    def test_white_space_around_the_document_is_none_of_it(self) -> None:
        completion = tito.decode(b"\r\n\t " + GENERATE + b" \n", wire="vllm_generate")
        assert completion.token_ids.tolist() == [5, 6]

    @pytest.mark.parametrize("depth", [1, 10, 60])
    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
    def test_depth_that_must_decode(self, depth: int, opening: bytes, closing: bytes) -> None:
        value = opening * depth + b"0" + closing * depth
        body = swap(GENERATE, b'{"request_id"', b'{"x":' + value + b',"request_id"')
        assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]

    @pytest.mark.parametrize("depth", [128, 1_000, 2_000_000])
    @pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
    @pytest.mark.parametrize("wire", BODIES)
    def test_depth_that_is_refused(self, wire: Wire, depth: int, opening: bytes) -> None:
        body = b'{"x":' + opening * depth
        error = refused(body, MalformedBodyError, kind="too_deep", path="", wire=wire)
        assert error.offset == 5 + 127 * len(opening)

    def test_numbers_may_be_spelled_in_any_way_the_grammar_allows(self) -> None:
        body = swap(swap(GENERATE, b"-0.5", b"-5e-1"), b"-0.25", b"-0.0025E+2")
        logprobs = tito.decode(body, wire="vllm_generate").logprobs
        assert logprobs is not None
        assert logprobs.tolist() == [-0.5, -0.25]


class TestRepeatedKeys:
    @pytest.mark.parametrize(
        ("wire", "old", "new", "path"),
        [
            ("vllm_generate", b'{"request_id"', b'{"choices":[],"request_id"', "choices"),
            ("vllm_generate", b'"index":0', b'"index":0,"index":0', "choices[0].index"),
            ("vllm_generate", b'"index":0', b'"token_ids":[5,6],"index":0', "choices[0].token_ids"),
            ("vllm_generate", b'"index":0', rb'"token\u005fids":[5,6],"index":0', "choices[0].token_ids"),
            ("vllm_generate", b'{"content"', b'{"content":null,"content"', "choices[0].logprobs.content"),
            ("vllm_generate", b'"routed_experts":null', b'"routed_experts":null,"routed_experts":null',
             "choices[0].routed_experts"),
            ("dynamo_chat", b'"nvext":{', b'"nvext":null,"nvext":{', "nvext"),
            ("dynamo_chat", b'"engine_data":{', b'"engine_data":null,"engine_data":{', "nvext.engine_data"),
            ("dynamo_chat", b'"finished":true', b'"finished":true,"finished":true', "nvext.engine_data.finished"),
            ("dynamo_completions", b'"token_logprobs":', b'"token_logprobs":[],"token_logprobs":',
             "choices[0].logprobs.token_logprobs"),
            ("sglang_generate", b'"meta_info":{', b'"meta_info":{},"meta_info":{', "meta_info"),
            ("sglang_generate", b'"weight_version":', b'"weight_version":null,"weight_version":',
             "meta_info.weight_version"),
        ],
    )  # fmt: skip
    def test_that_are_read_are_refused(self, wire: Wire, old: bytes, new: bytes, path: str) -> None:
        refused(swap(BODIES[wire], old, new), MalformedBodyError, kind="duplicate_key", path=path, at=b'"', wire=wire)

    def test_the_second_key_is_the_one_that_is_wrong(self) -> None:
        body = swap(GENERATE, b'"index":0', rb'"index":0,"i\u006edex":0')
        refused(
            body,
            MalformedBodyError,
            kind="duplicate_key",
            path="choices[0].index",
            at=rb'"i\u006edex"',
            wire="vllm_generate",
        )

    def test_that_are_not_read_do_not_matter(self) -> None:
        body = swap(GENERATE, b'"index":0', b'"text":"a","index":0,"text":"b"')
        assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]


class TestErrorBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"error":{"message":"no","type":"t","code":400}}',
            b'{"error":"Unauthorized"}',
            b'{"error":""}',
            b'{"error":false}',
            b'{"error":0}',
            b'{"object":"error","message":"no"}',
            b'{"status":"error","message":"Missing"}',
            b'{"message":"no","type":"Bad Request","code":400}',
            b'{"message":null,"type":null,"code":null}',
            b'{"message":"no","type":"Bad Request","code":400,"choices":null}',
            swap(GENERATE, b'{"request_id"', b'{"error":{"message":"late"},"request_id"'),
            swap(GENERATE, b'{"request_id"', b'{"status":"error","request_id"'),
            swap(GENERATE, b'"request_id"', rb'"err\u006fr":{"message":"late"},"request_id"'),
        ],
    )
    @pytest.mark.parametrize("wire", BODIES)
    def test_are_server_errors(self, wire: Wire, body: bytes) -> None:
        with pytest.raises(ServerError) as caught:
            tito.decode(body, wire=wire)
        assert caught.value.status is None
        assert json.loads(caught.value.body) == json.loads(body)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "extra",
        [
            b'"error":null',
            b'"object":"chat.completion"',
            b'"status":"ok"',
            b'"message":"hi","type":"t"',
            b'"message":"hi","type":"t","code":1',
            b'"Error":{"message":"x"}',
        ],
    )
    @pytest.mark.parametrize("wire", ["dynamo_chat", "vllm_generate", "vllm_chat"])
    def test_an_answer_beside_something_similar_is_none(self, wire: Wire, extra: bytes) -> None:
        body = b"{" + extra + b"," + BODIES[wire][1:]
        if body.count(b'"object"') < 2:
            assert tito.decode(body, wire=wire).token_ids.tolist() == [5, 6]

    def test_what_is_quoted_is_cut(self) -> None:
        body = b'{"error":{"message":"' + b"x" * 100_000 + b'"}}'
        with pytest.raises(ServerError) as caught:
            tito.decode(body, wire="vllm_generate")
        assert caught.value.body == body[:4096].decode()
        assert len(str(caught.value)) < 2000

    def test_a_broken_error_body_is_broken_first(self) -> None:
        refused(b'{"error":{"message":"x"}', MalformedBodyError, kind="truncated", path="", wire="vllm_generate")


class TestStructure:
    @pytest.mark.parametrize("body", [b"null", b"7", b'"text"', b"true", b"[]", b"[1]"])
    @pytest.mark.parametrize("wire", [wire for wire in BODIES if wire != "sglang_generate"])
    def test_a_document_that_is_no_object(self, wire: Wire, body: bytes) -> None:
        refused(body, MalformedBodyError, kind="type", path="", at=body, wire=wire)

    def test_an_sglang_list_of_nothing(self) -> None:
        refused(b"[]", MissingFieldError, kind="missing", path="[0]", wire="sglang_generate", several=True)

    def test_an_sglang_list_of_something_else(self) -> None:
        refused(b"[1]", MalformedBodyError, kind="type", path="[0]", at=b"1", wire="sglang_generate", several=True)

    @pytest.mark.parametrize("choices", [b"null", b"[]"])
    @pytest.mark.parametrize("wire", [wire for wire in BODIES if wire != "sglang_generate"])
    def test_no_choices(self, wire: Wire, choices: bytes) -> None:
        for body in (b'{"choices":' + choices + b"}", b"{}"):
            refused(body, MissingFieldError, kind="missing", path="choices", wire=wire)

    def test_no_meta_info(self) -> None:
        for body in (b'{"output_ids":[]}', b'{"output_ids":[],"meta_info":null}'):
            refused(body, MissingFieldError, kind="missing", path="meta_info", wire="sglang_generate")

    @pytest.mark.parametrize(
        ("wire", "body", "path", "at"),
        [
            ("vllm_generate", b'{"choices":{}}', "choices", b"{}}"),
            ("vllm_generate", b'{"choices":[7]}', "choices[0]", b"7"),
            ("vllm_generate", b'{"choices":[null]}', "choices[0]", b"null"),
            ("vllm_generate", swap(GENERATE, b'"index":0', b'"index":"0"'), "choices[0].index", b'"0"'),
            ("vllm_generate", swap(GENERATE, b'"index":0', b'"index":0.0'), "choices[0].index", b"0.0"),
            ("vllm_generate", swap(GENERATE, b'"index":0', b'"index":true'), "choices[0].index", b"true"),
            ("vllm_chat", b'{"choices":[{"logprobs":[]}]}', "choices[0].logprobs", b"[]"),
            ("dynamo_chat", swap(CHAT, b'"nvext":{', b'"nvext":[],"x":{'), "nvext", b"[]"),
            ("dynamo_chat", swap(CHAT, b'"engine_data":{', b'"engine_data":7,"x":{'), "nvext.engine_data", b"7"),
            ("sglang_generate", b'{"output_ids":[],"meta_info":[]}', "meta_info", b"[]"),
        ],
    )
    def test_the_wrong_type(self, wire: Wire, body: bytes, path: str, at: bytes) -> None:
        refused(body, MalformedBodyError, kind="type", path=path, at=at, wire=wire)

    def test_an_index_that_is_too_large(self) -> None:
        body = swap(GENERATE, b'"index":0', b'"index":2147483648')
        refused(body, MalformedBodyError, kind="range", path="choices[0].index", at=b"2147483648", wire="vllm_generate")

    def test_an_index_that_comes_twice(self) -> None:
        body = b'{"choices":[{"index":0,"token_ids":[]},{"index":0,"token_ids":[]}]}'
        refused(
            body,
            MalformedBodyError,
            kind="duplicate_index",
            path="choices[1].index",
            wire="vllm_generate",
            several=True,
        )

    def test_too_many_choices(self) -> None:
        body = b'{"choices":[' + b",".join([b'{"token_ids":[]}'] * 4097) + b"]}"
        refused(body, MalformedBodyError, kind="too_many", path="choices", wire="vllm_generate", several=True)
        body = swap(body, b"]}]}", b"]}]}").replace(b'{"token_ids":[]},', b"", 1)
        assert len(tito.decode_choices(body, wire="vllm_generate")) == 4096

    @pytest.mark.parametrize(("wire", "body"), [("dynamo_chat", CHAT), ("dynamo_completions", COMPLETIONS)])
    @pytest.mark.parametrize("several", [False, True])
    def test_several_choices_of_dynamo(self, wire: Wire, body: bytes, several: bool) -> None:
        body = swap(body, b'{"index":0', b'{"index":1,"text":"of another sample"},{"index":0')
        refused(
            body,
            MalformedBodyError,
            kind="several_choices",
            path="choices[1]",
            at=b'{"index":0',
            wire=wire,
            several=several,
        )

    @pytest.mark.parametrize(("wire", "body"), [("vllm_generate", GENERATE), ("vllm_chat", VLLM_CHAT)])
    def test_several_choices_asked_for_as_one(self, wire: Wire, body: bytes) -> None:
        body = swap(body, b'{"index":0', b'{"index":1,"token_ids":[]},{"index":0')
        refused(body, MalformedBodyError, kind="several_choices", path="choices[1]", at=b'{"index":0', wire=wire)
        assert len(tito.decode_choices(body, wire=wire)) == 2

    def test_several_answers_of_sglang_asked_for_as_one(self) -> None:
        body = b"[" + SGLANG + b"," + SGLANG + b"]"
        refused(body, MalformedBodyError, kind="several_choices", path="[1]", wire="sglang_generate")
        assert [c.index for c in tito.decode_choices(body, wire="sglang_generate")] == [0, 1]

    def test_an_unfinished_engine(self) -> None:
        body = swap(CHAT, b'"finished":true', b'"finished":false')
        refused(
            body,
            MalformedBodyError,
            kind="unfinished",
            path="nvext.engine_data.finished",
            at=b"false",
            wire="dynamo_chat",
        )


class TestMetadata:
    @pytest.mark.parametrize(
        ("wire", "old", "new", "path"),
        [
            ("vllm_generate", b'"request_id":"r"', b'"request_id":7', "request_id"),
            ("vllm_generate", b'"finish_reason":"stop"', b'"finish_reason":{}', "choices[0].finish_reason"),
            ("vllm_generate", b'"index":0', b'"index":0,"stop_reason":1.5', "choices[0].stop_reason"),
            ("vllm_generate", b'"index":0', b'"index":0,"stop_reason":[1]', "choices[0].stop_reason"),
            ("vllm_generate", b'"index":0', b'"index":0,"weight_versions":{}', "choices[0].weight_versions"),
            ("dynamo_chat", b'"usage":{"prompt_tokens":3}', b'"usage":[]', "usage"),
            ("dynamo_chat", b'"nvext":{', b'"nvext":{"detailed_finish_reason":1,', "nvext.detailed_finish_reason"),
            ("sglang_generate", b'{"type":"stop","matched":6}', b'"stop"', "meta_info.finish_reason"),
            ("sglang_generate", b'"weight_version":"default"', b'"weight_version":7', "meta_info.weight_version"),
            ("sglang_generate", b'"prompt_tokens":3', b'"prompt_tokens":"3"', "meta_info.prompt_tokens"),
        ],
    )
    def test_of_the_wrong_type(self, wire: Wire, old: bytes, new: bytes, path: str) -> None:
        refused(swap(BODIES[wire], old, new), MalformedBodyError, kind="type", path=path, wire=wire)

    @pytest.mark.parametrize(
        "value", [b"1e999", b"123456789012345678901234567890", rb'"\ud800"', rb'"\udc00\ud800"'], ids=repr
    )
    def test_that_no_python_value_can_hold(self, value: bytes) -> None:
        body = swap(CHAT, b'"usage":{"prompt_tokens":3}', b'"usage":{"prompt_tokens":' + value + b"}")
        refused(body, MalformedBodyError, kind="metadata", path="usage", wire="dynamo_chat")

    def test_that_is_too_large(self) -> None:
        body = swap(CHAT, b'"usage":{"prompt_tokens":3}', b'"usage":{"x":"' + b"y" * (1 << 20) + b'"}')
        refused(body, MalformedBodyError, kind="too_large", path="usage", wire="dynamo_chat")

    def test_of_too_many_values(self) -> None:
        def usage(members: int) -> bytes:
            text = b",".join(b'"k%d":%d' % (member, member) for member in range(members))
            return swap(CHAT, b'"usage":{"prompt_tokens":3}', b'"usage":{' + text + b"}")

        assert len(tito.decode(usage(500), wire="dynamo_chat").usage or ()) == 500
        refused(usage(512), MalformedBodyError, kind="too_many", path="usage", wire="dynamo_chat")

    def test_worker_ids_beyond_two_to_the_53_stay_exact(self) -> None:
        body = swap(
            CHAT, b'"usage":{"prompt_tokens":3}', b'"usage":{"worker":18446744073709551615,"other":-9007199254740993}'
        )
        assert tito.decode(body, wire="dynamo_chat").usage == {"worker": 2**64 - 1, "other": -(2**53) - 1}


def test_a_field_quoted_in_a_message_is_not_the_field() -> None:
    quoted = json.dumps(CHAT.decode().replace("[5,6]", "[7,8]")).encode()
    body = swap(CHAT, b'"content":"hi"', b'"content":' + quoted)
    assert tito.decode(body, wire="dynamo_chat").token_ids.tolist() == [5, 6]


def test_a_field_elsewhere_is_not_the_field() -> None:
    body = swap(GENERATE, b'"token_ids":[5,6]', b'"nvext":{"token_ids":[5,6]}')
    refused(body, MissingFieldError, kind="missing", path="choices[0].token_ids", at=None, wire="vllm_generate")
