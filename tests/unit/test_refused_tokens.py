"""Refusals of token ids and log-probabilities (rules 3 to 6)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, MalformedBodyError, MissingFieldError, Wire
from support.small import (
    BODIES,
    CHAT_CONTENT,
    COMPLETIONS,
    GENERATE,
    SGLANG,
    refused,
    swap,
)

IDS = {
    "dynamo_chat": "nvext.engine_data.completion_token_ids",
    "dynamo_completions": "nvext.engine_data.completion_token_ids",
    "vllm_generate": "choices[0].token_ids",
    "vllm_chat": "choices[0].token_ids",
    "sglang_generate": "output_ids",
}
LOGPROBS = {
    "dynamo_chat": "nvext.engine_data.completion_logprobs",
    "dynamo_completions": "choices[0].logprobs.token_logprobs",
    "vllm_generate": "choices[0].logprobs.content",
    "vllm_chat": "choices[0].logprobs.content",
    "sglang_generate": "meta_info.output_token_logprobs",
}
VALUE = {
    "dynamo_chat": "[0]",
    "dynamo_completions": "[0]",
    "vllm_generate": "[0].logprob",
    "vllm_chat": "[0].logprob",
    "sglang_generate": "[0][0]",
}


def first_logprob(wire: Wire, value: bytes) -> bytes:
    """The answer with another first log-probability."""
    spellings = {
        "dynamo_chat": (b"[-0.5,-0.25]", b"[%b,-0.25]"),
        "dynamo_completions": (b"[-0.5,-0.25]", b"[%b,-0.25]"),
        "vllm_generate": (b'"logprob":-0.5', b'"logprob":%b'),
        "vllm_chat": (b'"logprob":-0.5', b'"logprob":%b'),
        "sglang_generate": (b"[-0.5,5,null]", b"[%b,5,null]"),
    }
    old, new = spellings[wire]
    return swap(BODIES[wire], old, new % value)


@pytest.mark.parametrize("wire", BODIES)
class TestTokenIds:
    @pytest.mark.parametrize(
        ("ids", "kind", "inside", "at"),
        [
            (b'"AAAA"', "type", "", b'"AAAA"'),
            (b"{}", "type", "", b"{}"),
            (b"true", "type", "", b"true"),
            (b"5", "type", "", b"5"),
            (b"[5,6.0]", "type", "[1]", b"6.0"),
            (b"[5,6e0]", "type", "[1]", b"6e0"),
            (b"[5,-6]", "type", "[1]", b"-6"),
            (b"[5,-0]", "type", "[1]", b"-0"),
            (b"[5,null]", "type", "[1]", b"null"),
            (b"[5,true]", "type", "[1]", b"true"),
            (b'[5,"6"]', "type", "[1]", b'"6"'),
            (b"[5,[6]]", "type", "[1]", b"[6]"),
            (b"[5,2147483648]", "range", "[1]", b"2147483648"),
            (b"[5,18446744073709551621]", "range", "[1]", b"18446744073709551621"),
        ],
    )
    def test_of_the_wrong_form(self, wire: Wire, ids: bytes, kind: str, inside: str, at: bytes) -> None:
        body = swap(BODIES[wire], b"[5,6]", ids)
        refused(body, MalformedBodyError, kind=kind, path=IDS[wire] + inside, at=at, wire=wire)

    def test_absent(self, wire: Wire) -> None:
        body = swap(BODIES[wire], b"[5,6]", b"null")
        refused(body, MissingFieldError, kind="missing", path=IDS[wire], at=None, wire=wire)

    def test_the_largest(self, wire: Wire) -> None:
        body = swap(BODIES[wire], b"[5,6]", b"[2147483647,0]").replace(b"token_id:5", b"token_id:2147483647")
        body = body.replace(b"token_id:6", b"token_id:0").replace(b",5,null]", b",2147483647,null]")
        body = body.replace(b",6,null]", b",0,null]")
        assert tito.decode(body, wire=wire).token_ids.tolist() == [2**31 - 1, 0]

    def test_none_at_all_is_a_completion_of_no_tokens(self, wire: Wire) -> None:
        body = swap(BODIES[wire], b"[5,6]", b"[]")
        for name in (b'"completion_logprobs"', b'"token_logprobs"', b'"content":[', b'"output_token_logprobs"'):
            body = body.replace(name, b'"unread":[' if name.endswith(b"[") else b'"unread"')
        body = body.replace(b'"completion_tokens":2', b'"completion_tokens":0')
        completion = tito.decode(body, wire=wire)
        assert completion.token_ids.shape == (0,)
        assert completion.logprobs is not None
        assert completion.logprobs.shape == (0,)


class TestSourcesOfTokenIds:
    BODY = (
        b'{"choices":[{"token_ids":[3]}],'
        b'"nvext":{"completion_token_ids":[2],"engine_data":{"completion_token_ids":[1]}}}'
    )

    @pytest.mark.parametrize(
        ("removed", "token", "source"),
        [
            ((), 1, "nvext.engine_data.completion_token_ids"),
            ((b"[1]",), 2, "nvext.completion_token_ids"),
            ((b"[1]", b"[2]"), 3, "choices[0].token_ids"),
        ],
    )
    @pytest.mark.parametrize("wire", ["dynamo_chat", "dynamo_completions"])
    def test_the_first_that_is_there(self, wire: Wire, removed: tuple[bytes, ...], token: int, source: str) -> None:
        body = self.BODY
        for ids in removed:
            body = swap(body, ids, b"null")
        completion = tito.decode(body, wire=wire, require_logprobs=False)
        assert completion.token_ids.tolist() == [token]
        assert completion.sources["token_ids"] == source

    def test_is_authoritative_even_when_it_is_wrong(self) -> None:
        body = swap(self.BODY, b"[1]", b'"1"')
        path = "nvext.engine_data.completion_token_ids"
        refused(body, MalformedBodyError, kind="type", path=path, at=b'"1"', wire="dynamo_chat", require_logprobs=False)

    def test_an_empty_list_is_there(self) -> None:
        body = swap(self.BODY, b"[1]", b"[]")
        assert tito.decode(body, wire="dynamo_chat").token_ids.tolist() == []


@pytest.mark.parametrize("wire", BODIES)
class TestLogprobs:
    @pytest.mark.parametrize("value", [b'"-0.5"', b"true", b"[]", b"{}"])
    def test_of_the_wrong_type(self, wire: Wire, value: bytes) -> None:
        path = LOGPROBS[wire] + VALUE[wire]
        refused(first_logprob(wire, value), MalformedBodyError, kind="type", path=path, at=value, wire=wire)

    def test_null_is_not_a_number(self, wire: Wire) -> None:
        body = first_logprob(wire, b"null")
        path = LOGPROBS[wire] + VALUE[wire]
        if wire == "sglang_generate":  # writes null where it has none
            refused(body, MissingFieldError, kind="no_logprob", path=path, at=b"null", wire=wire)
        else:
            refused(body, MalformedBodyError, kind="type", path=path, at=b"null", wire=wire)

    @pytest.mark.parametrize("value", [b"-1e999", b"1e309", b"-1" + b"0" * 400])
    def test_that_overflow(self, wire: Wire, value: bytes) -> None:
        path = LOGPROBS[wire] + VALUE[wire]
        refused(first_logprob(wire, value), MalformedBodyError, kind="range", path=path, at=value, wire=wire)

    @pytest.mark.parametrize(
        "value", [b"-9999.0", b"-9999", b"-9.999e3", b"-1e30", b"-1.0000000150474662e30", b"-1.0000000150474662e+30"]
    )
    def test_that_are_no_evidence(self, wire: Wire, value: bytes) -> None:
        body = first_logprob(wire, value)
        path = LOGPROBS[wire] + VALUE[wire]
        refused(body, MissingFieldError, kind="no_logprob", path=path, at=value, wire=wire)
        logprobs = tito.decode(body, wire=wire, missing_logprob="nan").logprobs
        assert logprobs is not None
        assert math.isnan(logprobs[0])
        assert logprobs[1] == -0.25

    @pytest.mark.parametrize(
        "value", [b"-9998.999999999998", b"-1.0000000000000001e29", b"0", b"-0.0", b"1e-3", b"5e-324"]
    )
    def test_that_merely_look_odd_are_evidence(self, wire: Wire, value: bytes) -> None:
        logprobs = tito.decode(first_logprob(wire, value), wire=wire).logprobs
        assert logprobs is not None
        assert logprobs[0] == float(value)
        assert math.copysign(1, logprobs[0]) == math.copysign(1, float(value))

    @pytest.mark.parametrize(
        "value",
        [
            b"-0.1000000000000000055511151231257827021181583404541015625",
            b"-0.1000000000000000124900090270330610871315002441406250001",
            b"-9007199254740993",
            b"-2.2250738585072011e-308",
            b"-1797693134862315807937e287",
        ],
    )
    def test_are_correctly_rounded(self, wire: Wire, value: bytes) -> None:
        logprobs = tito.decode(first_logprob(wire, value), wire=wire).logprobs
        assert logprobs is not None
        assert logprobs[0].hex() == float(value).hex()


class TestCounts:
    @pytest.mark.parametrize(
        ("wire", "old", "new"),
        [
            ("dynamo_chat", b"[-0.5,-0.25]", b"[-0.5]"),
            ("dynamo_chat", b"[-0.5,-0.25]", b"[-0.5,-0.25,-1]"),
            ("dynamo_chat", b"[-0.5,-0.25]", b"[]"),
            ("dynamo_completions", b"[-0.5,-0.25]", b"[-0.5]"),
            ("vllm_generate", b"[5,6]", b"[5]"),
            ("vllm_generate", b"[5,6]", b"[5,6,7]"),
            ("vllm_chat", b"[5,6]", b"[5,6,7]"),
            ("sglang_generate", b"[5,6]", b"[]"),
            ("sglang_generate", b"[5,6]", b"[5,6,7]"),
        ],
    )
    def test_that_disagree(self, wire: Wire, old: bytes, new: bytes) -> None:
        body = swap(BODIES[wire], old, new)
        error = refused(body, AlignmentError, kind="count", path=LOGPROBS[wire], at=b"[", wire=wire)
        assert any(digit in str(error) for digit in "123")

    def test_an_empty_list_is_chosen_over_the_choices(self) -> None:
        body = swap(CHAT_CONTENT, b'"nvext":{', b'"nvext":{"engine_data":{"completion_logprobs":[]},')
        path = "nvext.engine_data.completion_logprobs"
        refused(body, AlignmentError, kind="count", path=path, at=b"[]", wire="dynamo_chat")

    def test_chat_entries_of_dropped_chunks(self) -> None:
        body = swap(CHAT_CONTENT, b"[5,6]", b"[5,6,7]")
        path = "choices[0].logprobs.content"
        refused(body, AlignmentError, kind="count", path=path, at=b"[{", wire="dynamo_chat")

    def test_chat_entries_may_fall_short_beside_the_flat_list(self) -> None:
        body = swap(CHAT_CONTENT, b'"nvext":{', b'"nvext":{"engine_data":{"completion_logprobs":[-1,-2,-3]},')
        body = swap(body, b"[5,6]", b"[5,6,7]")
        completion = tito.decode(body, wire="dynamo_chat")
        assert completion.logprobs is not None
        assert completion.logprobs.tolist() == [-1, -2, -3]
        assert completion.top_logprobs is None

    @pytest.mark.parametrize(("wire", "path"), (LOGPROBS | {"dynamo_chat": "choices[0].logprobs.content"}).items())
    def test_logprobs_that_are_not_there(self, wire: Wire, path: str) -> None:
        body = BODIES[wire]
        for name in (b'"completion_logprobs"', b'"token_logprobs"', b'"content":[', b'"output_token_logprobs"'):
            body = body.replace(name, b'"unread":[' if name.endswith(b"[") else b'"unread"')
        refused(body, MissingFieldError, kind="missing", path=path, at=None, wire=wire)
        completion = tito.decode(body, wire=wire, require_logprobs=False)
        assert completion.logprobs is None
        assert "logprobs" not in completion.sources

    def test_a_sampling_mask_of_another_length(self) -> None:
        body = swap(GENERATE, b'"sampling_mask":null', b'"sampling_mask":[[5]]')
        refused(body, AlignmentError, kind="count", path="choices[0].sampling_mask", at=b"[[5]]", wire="vllm_generate")

    def test_top_logprobs_of_another_length(self) -> None:
        body = swap(SGLANG, b'"completion_tokens":2', b'"output_top_logprobs":[[[-0.5,5,null]]]')
        refused(body, AlignmentError, kind="count", path="meta_info.output_top_logprobs", wire="sglang_generate")


class TestIdentity:
    @pytest.mark.parametrize(
        ("wire", "old", "new", "path", "at"),
        [
            (
                "vllm_generate",
                b'"token_id:6"',
                b'"token_id:7"',
                "choices[0].logprobs.content[1].token",
                b'"token_id:7"',
            ),
            (
                "vllm_generate",
                b'"token":"token_id:6"',
                b'"token_id":7',
                "choices[0].logprobs.content[1].token_id",
                b"7",
            ),
            ("vllm_generate", b'"token":"token_id:6"', b'"rank":1', "choices[0].logprobs.content[1]", b"{"),
            ("vllm_generate", b'"token_id:6"', b'"six"', "choices[0].logprobs.content[1]", b"{"),
            ("vllm_generate", b'"token_id:6"', b'"token_id:06"', "choices[0].logprobs.content[1]", b"{"),
            ("vllm_generate", b'"token_id:6"', b'"token_id:2147483648"', "choices[0].logprobs.content[1]", b"{"),
            (
                "vllm_chat",
                b'"token":"b"',
                b'"token":"token_id:5"',
                "choices[0].logprobs.content[1].token",
                b'"token_id:5"',
            ),
            ("vllm_chat", b'"token":"b"', b'"token_id":5', "choices[0].logprobs.content[1].token_id", b"5"),
            ("sglang_generate", b"[-0.25,6,null]", b"[-0.25,5,null]", "meta_info.output_token_logprobs[1][1]", b"5"),
        ],
    )
    def test_of_another_token(self, wire: Wire, old: bytes, new: bytes, path: str, at: bytes) -> None:
        refused(swap(BODIES[wire], old, new), AlignmentError, kind="identity", path=path, at=at, wire=wire)

    def test_of_an_escaped_name(self) -> None:
        body = swap(GENERATE, b'"token_id:6"', rb'"token\u005fid:7"')
        path = "choices[0].logprobs.content[1].token"
        refused(body, AlignmentError, kind="identity", path=path, wire="vllm_generate")
        body = swap(GENERATE, b'"token_id:6"', rb'"token\u005fid:\u0036"')
        assert tito.decode(body, wire="vllm_generate").token_ids.tolist() == [5, 6]

    def test_of_a_chat_entry(self) -> None:
        body = swap(CHAT_CONTENT, b'"token_id":6', b'"token_id":7')
        path = "choices[0].logprobs.content[1].token_id"
        refused(body, AlignmentError, kind="identity", path=path, at=b"7", wire="dynamo_chat")

    def test_of_a_chat_entry_beside_the_flat_list(self) -> None:
        body = swap(CHAT_CONTENT, b'"token_id":6', b'"token_id":7')
        body = swap(body, b'"nvext":{', b'"nvext":{"engine_data":{"completion_logprobs":[-1,-2]},')
        path = "choices[0].logprobs.content[1].token_id"
        refused(body, AlignmentError, kind="identity", path=path, at=b"7", wire="dynamo_chat")

    def test_of_a_completions_token(self) -> None:
        body = swap(COMPLETIONS, b'["a","b"]', b'["token_id:5","token_id:7"]')
        path = "choices[0].logprobs.tokens[1]"
        refused(body, AlignmentError, kind="identity", path=path, at=b'"token_id:7"', wire="dynamo_completions")

    def test_entries_shifted_by_one(self) -> None:
        body = swap(GENERATE, b"[5,6]", b"[6,5]")
        path = "choices[0].logprobs.content[0].token"
        refused(body, AlignmentError, kind="identity", path=path, at=b'"token_id:5"', wire="vllm_generate")

    def test_an_alternative_that_names_two_tokens(self) -> None:
        body = GENERATE.replace(
            b'"top_logprobs":[]}]}', b'"top_logprobs":[{"token":"token_id:6","token_id":7,"logprob":-1}]}]}'
        )
        path = "choices[0].logprobs.content[1].top_logprobs[0].token_id"
        refused(body, AlignmentError, kind="identity", path=path, at=b"7", wire="vllm_generate")


class TestEntries:
    @pytest.mark.parametrize(
        ("entry", "error", "kind", "inside"),
        [
            (b"7", MalformedBodyError, "type", ""),
            (b"null", MalformedBodyError, "type", ""),
            (b'{"token_id":6}', MissingFieldError, "missing", ".logprob"),
            (b'{"token_id":"6","logprob":-1}', MalformedBodyError, "type", ".token_id"),
            (b'{"token_id":6.0,"logprob":-1}', MalformedBodyError, "type", ".token_id"),
            (b'{"token_id":-6,"logprob":-1}', MalformedBodyError, "type", ".token_id"),
            (b'{"token_id":4294967302,"logprob":-1}', MalformedBodyError, "range", ".token_id"),
            (b'{"token":6,"logprob":-1}', MalformedBodyError, "type", ".token"),
            (b'{"token_id":6,"logprob":-1,"logprob":-1}', MalformedBodyError, "duplicate_key", ".logprob"),
            (b'{"token_id":6,"token_id":6,"logprob":-1}', MalformedBodyError, "duplicate_key", ".token_id"),
            (b'{"token_id":6,"logprob":-1,"top_logprobs":{}}', MalformedBodyError, "type", ".top_logprobs"),
            (b'{"token_id":6,"logprob":-1,"top_logprobs":[7]}', MalformedBodyError, "type", ".top_logprobs[0]"),
            (b'{"token_id":6,"logprob":-1,"top_logprobs":[{"token_id":6}]}', MissingFieldError, "missing",
             ".top_logprobs[0].logprob"),
        ],
    )  # fmt: skip
    def test_of_the_wrong_form(self, entry: bytes, error: type[tito.DecodeError], kind: str, inside: str) -> None:
        body = swap(GENERATE, b'{"token":"token_id:6","logprob":-0.25,"bytes":null,"top_logprobs":[]}', entry)
        refused(body, error, kind=kind, path=f"choices[0].logprobs.content[1]{inside}", wire="vllm_generate")

    @pytest.mark.parametrize(
        ("triple", "kind", "inside"),
        [
            (b"7", "type", "[1]"),
            (b"[]", "type", "[1]"),
            (b"[-1]", "type", "[1]"),
            (b"[-1,null]", "type", "[1][1]"),
            (b"[-1,6.5,null]", "type", "[1][1]"),
            (b'["-1",6,null]', "type", "[1][0]"),
        ],
    )
    def test_of_sglang_of_the_wrong_form(self, triple: bytes, kind: str, inside: str) -> None:
        body = swap(SGLANG, b"[-0.25,6,null]", triple)
        path = f"meta_info.output_token_logprobs{inside}"
        refused(body, MalformedBodyError, kind=kind, path=path, wire="sglang_generate")

    def test_more_than_three_elements_are_skipped(self) -> None:
        body = swap(SGLANG, b"[-0.25,6,null]", b'[-0.25,6,null,{"x":[1]},7]')
        assert tito.decode(body, wire="sglang_generate").token_ids.tolist() == [5, 6]

    def test_masked_alternatives_are_nan(self) -> None:
        top = (
            b'"top_logprobs":[{"token_id":6,"logprob":-0.25},{"token_id":9,"logprob":-9999.0},'
            b'{"token_id":8,"logprob":null}]}]}'
        )
        completion = tito.decode(GENERATE.replace(b'"top_logprobs":[]}]}', top), wire="vllm_generate")
        assert completion.top_logprobs is not None
        ids, scores = completion.top_logprobs[1]
        assert ids.tolist() == [6, 9, 8]
        assert np.array_equal(scores, [-0.25, np.nan, np.nan], equal_nan=True)
