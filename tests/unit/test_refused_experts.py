"""Refusals of routed experts: containers, base64, trimming, rows (rules 9 to 12)."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import MissingFieldError, RoutedExpertsError
from support.small import CHAT, EXPERTS, GENERATE, SGLANG, refused, swap, with_experts

PATH = "choices[0].routed_experts"
ARRAY = np.arange(8, dtype=np.uint8).reshape(4, 1, 2)


def bad(experts: bytes, kind: str, inside: str = "", *, at: Any = b"", **options: Any) -> None:
    body = with_experts(experts)
    at = {"at": at} if at != b"" else {}
    refused(body, RoutedExpertsError, kind=kind, path=PATH + inside, wire="vllm_generate", **at, **options)


def text(raw: bytes) -> bytes:
    return b'"' + base64.b64encode(raw) + b'"'


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=False)
    return buffer.getvalue()


def test_the_undamaged_experts_decode() -> None:
    for prompt_len in (None, 3):
        routed = tito.decode(with_experts(), wire="vllm_generate", prompt_len=prompt_len).routed_experts
        assert routed is not None
        assert routed.array.dtype == np.int32
        assert np.array_equal(routed.array, ARRAY)
        assert (routed.start, routed.wire_dtype, routed.complete) == (0, "uint8", True)


@pytest.mark.parametrize("experts", [b"7", b"true", b"[]"])
def test_of_no_known_form(experts: bytes) -> None:
    bad(experts, "type", at=experts)


class TestObjects:
    @pytest.mark.parametrize(
        ("old", "new", "kind", "inside"),
        [
            (b'"AAECAwQFBgc="', b"null", "missing", ".data"),
            (b'"data":"AAECAwQFBgc=",', b"", "missing", ".data"),
            (b'"AAECAwQFBgc="', b"7", "type", ".data"),
            (b'"AAECAwQFBgc="', b"[0,1,2,3,4,5,6,7]", "type", ".data"),
            (b'"shape":[4,1,2],', b"", "missing", ".shape"),
            (b"[4,1,2]", b"null", "missing", ".shape"),
            (b"[4,1,2]", b"[4,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[4,1,2,1]", "shape", ".shape"),
            (b"[4,1,2]", b"[]", "shape", ".shape"),
            (b"[4,1,2]", b"8", "shape", ".shape"),
            (b"[4,1,2]", b'"4,1,2"', "shape", ".shape"),
            (b"[4,1,2]", b"[4.0,1,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[-4,1,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[4,null,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[8,0,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[8,1,0]", "shape", ".shape"),
            (b"[4,1,2]", b"[9223372036854775808,1,2]", "shape", ".shape"),
            (b"[4,1,2]", b"[3,1,2]", "size", ".data"),
            (b"[4,1,2]", b"[5,1,2]", "size", ".data"),
            (b"[4,1,2]", b"[0,1,2]", "size", ".data"),
            (b"[4,1,2]", b"[4611686018427387908,1,2]", "size", ".data"),
            (b"[4,1,2]", b"[4294967296,4294967296,2]", "size", ".data"),
            (b"[4,1,2]", b"[4,9223372036854775807,9223372036854775807]", "size", ".data"),
            (b'"start":0', b'"start":-1', "start", ".start"),
            (b'"start":0', b'"start":0.0', "start", ".start"),
            (b'"start":0', b'"start":"0"', "start", ".start"),
            (b'"start":0', b'"start":true', "start", ".start"),
            (b'"start":0', b'"start":9223372036854775808', "start", ".start"),
            (b'"uint8"', b'"uint4"', "dtype", ".dtype"),
            (b'"uint8"', b'"int8"', "dtype", ".dtype"),
            (b'"uint8"', b'"int64"', "dtype", ".dtype"),
            (b'"uint8"', b'"float32"', "dtype", ".dtype"),
            (b'"uint8"', b'"|u1"', "dtype", ".dtype"),
            (b'"uint8"', b'""', "dtype", ".dtype"),
            (b'"uint8"', b"8", "dtype", ".dtype"),
            (b'"uint8"', b'"uint16"', "size", ".data"),
            (b'"uint8"', b'"int32"', "size", ".data"),
            (b'{"data"', b'{"data":null,"data"', "duplicate_key", ".data"),
            (b'"start":0', b'"start":0,"st\\u0061rt":0', "duplicate_key", ".start"),
            (b'"start":0', b'"start":0,"shape":[4,1,2]', "duplicate_key", ".shape"),
            (b'"start":0', b'"start":0,"dtype":null', "duplicate_key", ".dtype"),
        ],
    )
    def test_of_the_wrong_form(self, old: bytes, new: bytes, kind: str, inside: str) -> None:
        bad(swap(EXPERTS, old, new), kind, inside)

    @pytest.mark.parametrize(
        "same",
        [
            swap(EXPERTS, b',"dtype":"uint8"', b""),
            swap(EXPERTS, b'"uint8"', b"null"),
            swap(EXPERTS, b'"start":0,', b""),
            swap(EXPERTS, b'"start":0', b'"start":null'),
            swap(EXPERTS, b'"start":0', b'"extra":{"data":"!"},"start":0'),
            b'{"dtype":"uint8","start":0,"shape":[4,1,2],"data":"AAECAwQFBgc="}',
            rb'{"\u0064ata":"AAEC\u0041wQFBgc=","shape" : [ 4 , 1 , 2 ]}',
        ],
    )
    def test_spelled_otherwise(self, same: bytes) -> None:
        routed = tito.decode(with_experts(same), wire="vllm_generate", prompt_len=3).routed_experts
        assert routed is not None
        assert np.array_equal(routed.array, ARRAY)

    @pytest.mark.parametrize(
        ("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("int32", 2**31 - 1)]
    )
    def test_of_every_width(self, dtype: str, top: int) -> None:
        array = np.array([0, 1, top, 3, 4, 5, 6, top], np.dtype(dtype)).reshape(4, 1, 2)
        experts = b'{"data":%b,"shape":[4,1,2],"dtype":"%b"}' % (text(array.tobytes()), dtype.encode())
        for mode, expected in (("int32", np.int32), ("native", np.dtype(dtype))):
            routed = tito.decode(with_experts(experts), wire="vllm_generate", experts=mode).routed_experts  # type: ignore[arg-type]
            assert routed is not None
            assert routed.array.dtype == expected
            assert np.array_equal(routed.array, array)
            assert routed.wire_dtype == dtype

    @pytest.mark.parametrize("knobs", [{"num_layers": 2}, {"top_k": 1}, {"num_layers": 1, "top_k": 3}])
    def test_of_another_model(self, knobs: dict[str, Any]) -> None:
        bad(EXPERTS, "shape", ".shape", at=b"[4,1,2]", **knobs)


class TestBase64:
    @pytest.mark.parametrize(
        ("data", "at"),
        [
            (b"AAECAwQFBgd=", b"d="),
            (b"AAECAwQFB=c=", b"=c="),
            (b"AAEC=wQFBgc=", b"=wQF"),
            (b"AAEC wQFBgc=", b" wQF"),
            (b"AAEC-wQFBgc=", b"-wQF"),
            (b"AAEC_wQFBgc=", b"_wQF"),
            (b"AAEC.wQFBgc=", b".wQF"),
            (b"AAEC\x7fwQFBgc=", b"\x7fwQF"),
            ("AAECéQFBgc=".encode(), "é".encode()),
            (b"AAECAwQFBgc", b'"'),
            (b"AAECAwQFBgc==", b'"'),
            (b"AAECAwQFBgcI=", b'"'),
            (b"A", b'"'),
        ],
    )
    def test_that_is_not_canonical(self, data: bytes, at: bytes) -> None:
        bad(swap(EXPERTS, b"AAECAwQFBgc=", data), "base64", ".data", at=at)

    @pytest.mark.parametrize("data", [b"", b"AAECAwQFBg==", b"AAECAwQFBgcI", b"AAECAwQFBgc=AAAA", b"===="])
    def test_of_another_length(self, data: bytes) -> None:
        bad(swap(EXPERTS, b"AAECAwQFBgc=", data), "size", ".data")

    @pytest.mark.parametrize("escaped", [rb"AAEC\nwQFBgc=", rb"AAEC\u00e9QFBgc=", rb"AAEC\u002dwQFBgc="])
    def test_behind_an_escape(self, escaped: bytes) -> None:
        bad(swap(EXPERTS, b"AAECAwQFBgc=", escaped), "base64", ".data", at=b'"AAEC')

    @pytest.mark.parametrize("position", range(11))
    def test_every_character_is_looked_at(self, position: int) -> None:
        data = bytearray(b"AAECAwQFBgc=")
        data[position] = ord("!")
        bad(swap(EXPERTS, b"AAECAwQFBgc=", bytes(data)), "base64", ".data", at=bytes(data[position:]))

    @pytest.mark.parametrize("position", range(6))
    def test_dropped_rows_are_looked_at_too(self, position: int) -> None:
        data = bytearray(b"AAECAwQFBgc=")
        data[position] = ord("!")
        experts = swap(EXPERTS, b"AAECAwQFBgc=", bytes(data))
        options: dict[str, Any] = {"routed_experts_prompt_start": 3, "prompt_len": 3}
        bad(experts, "base64", ".data", at=bytes(data[position:]), **options)

    def test_all_rows_dropped_is_still_looked_at(self) -> None:
        experts = swap(EXPERTS, b"AAECAwQFBgc=", b"AAECAwQFBg!=")
        bad(experts, "base64", ".data", routed_experts_prompt_start=4)

    def test_skipped_is_not_looked_at(self) -> None:
        experts = swap(EXPERTS, b"AAECAwQFBgc=", b"!!!")
        completion = tito.decode(with_experts(experts), wire="vllm_generate", experts="skip")
        assert completion.routed_experts is None


class TestNpy:
    @pytest.mark.parametrize("version", [(1, 0), (2, 0)])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
    def test_that_decodes(self, version: tuple[int, int], dtype: str) -> None:
        experts = text(npy(ARRAY.astype(dtype), version))
        routed = tito.decode(with_experts(experts), wire="vllm_generate", prompt_len=3).routed_experts
        assert routed is not None
        assert np.array_equal(routed.array, ARRAY)
        assert routed.wire_dtype == dtype

    @pytest.mark.parametrize(
        "array",
        [
            ARRAY.astype(np.int8),
            ARRAY.astype(np.int64),
            ARRAY.astype(np.float32),
            ARRAY.astype(bool),
            ARRAY.astype(">i2"),
            ARRAY.reshape(4, 2),
            ARRAY.reshape(4, 1, 2, 1),
            ARRAY.reshape(8),
        ],
        ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
    )
    def test_of_another_kind(self, array: np.ndarray[Any, Any]) -> None:
        bad(text(npy(array)), "npy", at=b'"')

    def test_in_fortran_order(self) -> None:
        bad(text(npy(np.asfortranarray(np.zeros((4, 3, 2), np.uint8)))), "npy")

    def test_of_version_3(self) -> None:
        bad(text(npy(ARRAY, (3, 0))), "npy")

    def test_with_objects(self) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.array([[[object]]]), allow_pickle=True)
        bad(text(buffer.getvalue()), "npy")

    @pytest.mark.parametrize("length", [6, 9, 11, 12, 60, 127])
    def test_cut_in_its_header(self, length: int) -> None:
        bad(text(npy(ARRAY)[:length]), "npy")

    @pytest.mark.parametrize("change", [-2, -1, 1, 2])
    def test_of_another_size(self, change: int) -> None:
        raw = npy(ARRAY)
        bad(text(raw[:change] if change < 0 else raw + b"\0" * change), "size")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"'fortran_order': False, ", b""),
            (b"(4, 1, 2)", b"(4, 1, 0)"),
            (b"(4, 1, 2)", b"(4, 1,-2)"),
            (b"(4, 1, 2)", b"[4, 1, 2]"),
            (b"False", b"0    "),
            (b"'descr'", b"'dtype'"),
            (b"{", b"("),
            (b"'|u1'", b"'|u1'+''"),
        ],
    )
    def test_with_a_header_of_another_form(self, old: bytes, new: bytes) -> None:
        raw = npy(ARRAY)
        header = swap(raw[10:128], old, new).rstrip()[:117].ljust(117) + b"\n"
        bad(text(raw[:10] + header + raw[128:]), "npy")

    def test_of_another_model(self) -> None:
        bad(text(npy(ARRAY)), "shape", num_layers=2, top_k=1)


class TestBareStrings:
    RAW = ARRAY.astype("<i4").tobytes()

    def test_that_decode(self) -> None:
        routed = tito.decode(
            with_experts(text(self.RAW)), wire="vllm_generate", prompt_len=3, num_layers=1, top_k=2
        ).routed_experts
        assert routed is not None
        assert np.array_equal(routed.array, ARRAY)
        assert routed.wire_dtype == "int32"

    @pytest.mark.parametrize("knobs", [{}, {"num_layers": 1}, {"top_k": 2}])
    def test_without_a_shape_ask_for_one(self, knobs: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"num_layers|top_k") as caught:
            tito.decode(with_experts(text(self.RAW)), wire="vllm_generate", **knobs)  # type: ignore[arg-type]
        assert not isinstance(caught.value, tito.TitoError)

    @pytest.mark.parametrize("knobs", [{"num_layers": 3, "top_k": 1}, {"num_layers": 1, "top_k": 5}])
    def test_of_another_model(self, knobs: dict[str, Any]) -> None:
        bad(text(self.RAW), "size", **knobs)

    def test_of_no_rows(self) -> None:
        routed = tito.decode(
            with_experts(b'""'), wire="vllm_generate", routed_experts_prompt_start=0, num_layers=1, top_k=2
        ).routed_experts
        assert routed is not None
        assert routed.array.shape == (0, 1, 2)

    @pytest.mark.parametrize("length", [1, 2, 3, 31, 33])
    def test_of_half_a_number(self, length: int) -> None:
        bad(text((self.RAW + b"\0")[:length]), "size", num_layers=1, top_k=2)


class TestSources:
    @pytest.mark.parametrize(
        ("named", "inside", "source"),
        [
            (EXPERTS, b"null", "nvext.routed_experts"),
            (b"null", EXPERTS, "nvext.engine_data.routed_experts"),
            (EXPERTS, EXPERTS, "nvext.routed_experts"),
            (b'"!"', EXPERTS, "nvext.engine_data.routed_experts"),
            (text(npy(ARRAY)), b"null", "nvext.routed_experts"),
            (text(npy(ARRAY)), b'"!"', "nvext.routed_experts"),
            (b"7", text(npy(ARRAY)), "nvext.engine_data.routed_experts"),
        ],
    )
    def test_of_dynamo(self, named: bytes, inside: bytes, source: str) -> None:
        body = swap(CHAT, b'"nvext":{', b'"nvext":{"routed_experts":' + named + b",")
        body = swap(body, b'"finished":true', b'"routed_experts":' + inside)
        completion = tito.decode(body, wire="dynamo_chat", prompt_len=3)
        assert completion.routed_experts is not None
        assert np.array_equal(completion.routed_experts.array, ARRAY)
        assert completion.sources["routed_experts"] == source

    def test_absent_where_required(self) -> None:
        refused(
            GENERATE,
            MissingFieldError,
            kind="missing",
            path=PATH,
            at=None,
            wire="vllm_generate",
            require_routed_experts=True,
        )
        assert tito.decode(GENERATE, wire="vllm_generate").routed_experts is None


class TestTrimming:
    """Rule 11. ARRAY's rows are positions 0 to 3: P = 3, C = 2."""

    @pytest.mark.parametrize("first", [0, 1, 2, 3, 4, None])
    @pytest.mark.parametrize("prompt_len", [3, None])
    def test_an_untrimmed_object(self, first: int | None, prompt_len: int | None) -> None:
        completion = tito.decode(
            with_experts(), wire="vllm_generate", routed_experts_prompt_start=first, prompt_len=prompt_len
        )
        routed = completion.routed_experts
        assert routed is not None
        assert routed.start == (first or 0)
        assert np.array_equal(routed.array, ARRAY[first or 0 :])

    @pytest.mark.parametrize("prompt_len", [3, None])
    def test_a_trimmed_object_is_left_alone(self, prompt_len: int | None) -> None:
        experts = b'{"data":"BAUGBw==","shape":[2,1,2],"start":2}'
        completion = tito.decode(
            with_experts(experts), wire="vllm_generate", routed_experts_prompt_start=2, prompt_len=prompt_len
        )
        routed = completion.routed_experts
        assert routed is not None
        assert routed.start == 2
        assert np.array_equal(routed.array, ARRAY[2:])

    @pytest.mark.parametrize("first", [1, 3])
    def test_an_object_trimmed_elsewhere(self, first: int) -> None:
        experts = b'{"data":"BAUGBw==","shape":[2,1,2],"start":2}'
        bad(experts, "trim", at=b"{", routed_experts_prompt_start=first)

    @pytest.mark.parametrize("first", [5, 2**31, 2**62])
    def test_beyond_the_rows(self, first: int) -> None:
        bad(EXPERTS, "trim", at=b"{", routed_experts_prompt_start=first)

    @pytest.mark.parametrize("asked", [None, 0])
    def test_a_start_that_nobody_asked_for_stays(self, asked: int | None) -> None:
        experts = b'{"data":"BAUGBw==","shape":[2,1,2],"start":2}'
        completion = tito.decode(
            with_experts(experts), wire="vllm_generate", routed_experts_prompt_start=asked, prompt_len=3
        )
        assert completion.routed_experts is not None
        assert completion.routed_experts.start == 2
        assert not completion.complete

    STRINGS = pytest.mark.parametrize("make", [npy, lambda array: array.astype("<i4").tobytes()], ids=["npy", "bare"])
    ROW: dict[str, Any] = {"num_layers": 1, "top_k": 2}  # noqa: RUF012  # shared by the tests below, never changed

    @STRINGS
    @pytest.mark.parametrize("rows", [4, 2])
    def test_a_string_trimmed_or_not(self, make: Any, rows: int) -> None:
        experts = text(make(ARRAY[4 - rows :]))
        completion = tito.decode(
            with_experts(experts), wire="vllm_generate", routed_experts_prompt_start=2, prompt_len=3, **self.ROW
        )
        routed = completion.routed_experts
        assert routed is not None
        assert routed.start == 2
        assert np.array_equal(routed.array, ARRAY[2:])

    @STRINGS
    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_a_string_of_any_other_count(self, make: Any, rows: int) -> None:
        options = self.ROW | {"routed_experts_prompt_start": 2, "prompt_len": 3}
        bad(text(make(ARRAY[:rows])), "trim", at=b'"', **options)

    @STRINGS
    def test_a_string_needs_the_prompt(self, make: Any) -> None:
        with pytest.raises(ValueError, match="prompt_len") as caught:
            tito.decode(
                with_experts(text(make(ARRAY))), wire="vllm_generate", routed_experts_prompt_start=2, **self.ROW
            )
        assert not isinstance(caught.value, tito.TitoError)

    @pytest.mark.parametrize("first", [-1, -(2**70)])
    def test_a_negative_start(self, first: int) -> None:
        with pytest.raises((ValueError, OverflowError)):
            tito.decode(GENERATE, wire="vllm_generate", routed_experts_prompt_start=first)

    @pytest.mark.parametrize("first", [1.0, "1", [1]])
    def test_a_start_that_is_no_integer(self, first: Any) -> None:
        with pytest.raises(TypeError):
            tito.decode(GENERATE, wire="vllm_generate", routed_experts_prompt_start=first)


class TestRows:
    """Rule 12: start + rows must be P + C - 1."""

    @pytest.mark.parametrize("prompt_len", [0, 1, 2, 4, 5, 2**40])
    def test_an_off_by_one_of_the_engine(self, prompt_len: int) -> None:
        bad(EXPERTS, "rows", at=b"{", prompt_len=prompt_len)

    def test_a_prompt_passed_as_ids_counts_too(self) -> None:
        bad(EXPERTS, "rows", at=b"{", prompt_token_ids=[1, 2])
        bad(EXPERTS, "rows", at=b"{", prompt_token_ids=[1, 2, 3, 4])
        tito.decode(with_experts(), wire="vllm_generate", prompt_token_ids=[1, 2, 3])

    def test_a_final_row_only_where_it_is_expected(self) -> None:
        bad(EXPERTS, "rows", at=b"{", prompt_len=2)
        routed = tito.decode(with_experts(), wire="vllm_generate", prompt_len=2, final_row="present").routed_experts
        assert routed is not None
        assert routed.complete
        bad(EXPERTS, "rows", at=b"{", prompt_len=3, final_row="present")

    def test_an_echoed_prompt_counts_too(self) -> None:
        body = swap(CHAT, b'"finished":true', b'"routed_experts":' + EXPERTS)
        assert tito.decode(body, wire="dynamo_chat").complete
        body = swap(body, b'"prompt_tokens":3', b'"prompt_tokens":5')
        body = swap(body, b'"prompt_token_ids":[1,2,3]', b'"prompt_token_ids":[1,2,3,4,5]')
        path = "nvext.engine_data.routed_experts"
        refused(body, RoutedExpertsError, kind="rows", path=path, wire="dynamo_chat")

    @pytest.mark.parametrize("reason", [b"abort", b"aborted", b"cancelled", b"canceled"])
    def test_an_abort_may_bring_fewer(self, reason: bytes) -> None:
        body = swap(with_experts(), b'"stop"', b'"' + reason + b'"')
        completion = tito.decode(body, wire="vllm_generate", prompt_len=5)
        assert completion.aborted
        assert not completion.complete
        assert completion.routed_experts is not None
        assert not completion.routed_experts.complete
        assert len(completion.routed_experts.array) == 4

    def test_an_abort_brings_never_more(self) -> None:
        body = swap(with_experts(), b'"stop"', b'"abort"')
        assert tito.decode(body, wire="vllm_generate", prompt_len=3).complete
        refused(body, RoutedExpertsError, kind="rows", path=PATH, wire="vllm_generate", prompt_len=2)

    def test_a_cancelled_chat_may_bring_fewer(self) -> None:
        body = swap(CHAT, b'"finished":true', b'"routed_experts":' + EXPERTS)
        body = swap(body, b'"prompt_token_ids":[1,2,3]', b'"prompt_token_ids":[1,2,3,4]')
        body = swap(body, b'"prompt_tokens":3', b'"prompt_tokens":4')
        refused(
            body,
            RoutedExpertsError,
            kind="rows",
            path="nvext.engine_data.routed_experts",
            wire="dynamo_chat",
            prompt_len=4,
        )
        body = swap(body, b'"nvext":{', b'"nvext":{"detailed_finish_reason":"cancelled",')
        completion = tito.decode(body, wire="dynamo_chat", prompt_len=4)
        assert not completion.complete
        assert (completion.finish_reason, completion.finish_reason_raw) == ("abort", "cancelled")

    def test_sglang_answers_are_counted_too(self) -> None:
        raw = ARRAY.astype("<i4").tobytes()
        body = swap(SGLANG, b'"completion_tokens":2', b'"routed_experts":' + text(raw))
        options: dict[str, Any] = {"wire": "sglang_generate", "num_layers": 1, "top_k": 2}
        assert tito.decode(body, prompt_len=3, **options).complete
        body = swap(body, b'"prompt_tokens":3', b'"prompt_tokens":4')
        with pytest.raises(RoutedExpertsError):
            tito.decode(body, prompt_len=4, **options)
