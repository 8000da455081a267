"""Values that no engine can have meant: p above 1, masks without the sampled token, weight versions that overlap."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, MalformedBodyError, MissingFieldError, Wire
from support.small import BODIES, CHAT_CONTENT, GENERATE, SGLANG, VLLM_CHAT, refused, swap

VALUES: dict[Wire, tuple[bytes, bytes, str]] = {
    "dynamo_chat": (b",-0.25]", b",%b]", "nvext.engine_data.completion_logprobs[1]"),
    "dynamo_completions": (b",-0.25]", b",%b]", "choices[0].logprobs.token_logprobs[1]"),
    "vllm_generate": (b'"logprob":-0.25', b'"logprob":%b', "choices[0].logprobs.content[1].logprob"),
    "vllm_chat": (b'"logprob":-0.25', b'"logprob":%b', "choices[0].logprobs.content[1].logprob"),
    "sglang_generate": (b"[-0.25,6", b"[%b,6", "meta_info.output_token_logprobs[1][0]"),
}
"""The second log-probability of each smallest answer, another in its place, and its path."""

IDS = [1, 2, 3]
PLACES = ["engine_data", "nvext", "top"]


def answer(wire: Wire, value: bytes) -> bytes:
    old, new, _ = VALUES[wire]
    return swap(BODIES[wire], old, new % value)


class TestSampled:
    @pytest.mark.parametrize("wire", VALUES)
    @pytest.mark.parametrize("value", [b"18.25", b"3.5", b"0.0011", b"1e-2", b"1e300"])
    @pytest.mark.parametrize("missing", ["raise", "nan"])
    def test_above_0_is_refused(self, wire: Wire, value: bytes, missing: Any) -> None:
        body, path = answer(wire, value), VALUES[wire][2]
        error = refused(
            body, MissingFieldError, kind="positive_logprob", path=path, at=value, wire=wire, missing_logprob=missing
        )
        assert "--logprobs-mode" in str(error)

    @pytest.mark.parametrize("wire", VALUES)
    @pytest.mark.parametrize("value", [0.0, -0.0, 1e-3, 9.5e-7, 5e-324])
    def test_what_rounding_makes_is_kept(self, wire: Wire, value: float) -> None:
        logprobs = tito.decode(answer(wire, repr(value).encode()), wire=wire).logprobs
        assert logprobs is not None
        assert logprobs.tolist() == [-0.5, value]
        assert math.copysign(1, logprobs[1]) == math.copysign(1, value)

    def test_of_chat_entries_that_were_chosen(self) -> None:
        body = swap(CHAT_CONTENT, b'"logprob":-0.25', b'"logprob":7')
        path = "choices[0].logprobs.content[1].logprob"
        refused(body, MissingFieldError, kind="positive_logprob", path=path, at=b"7", wire="dynamo_chat")

    def test_of_chat_entries_that_were_not_chosen_is_not_looked_at(self) -> None:
        body = swap(CHAT_CONTENT, b'"logprob":-0.25', b'"logprob":7')
        body = swap(body, b'"nvext":{', b'"nvext":{"engine_data":{"completion_logprobs":[-1,-2]},')
        completion = tito.decode(body, wire="dynamo_chat")
        assert completion.logprobs is not None
        assert completion.logprobs.tolist() == [-1, -2]

    def test_the_first_in_position_counts(self) -> None:
        body = swap(answer("vllm_generate", b"2.5"), b'"logprob":-0.5', b'"logprob":-9999.0')
        path = "choices[0].logprobs.content[0].logprob"
        refused(body, MissingFieldError, kind="no_logprob", path=path, wire="vllm_generate")
        path = VALUES["vllm_generate"][2]
        options: dict[str, Any] = {"wire": "vllm_generate", "missing_logprob": "nan"}
        refused(body, MissingFieldError, kind="positive_logprob", path=path, **options)


class TestAlternatives:
    @pytest.mark.parametrize("wire", ["vllm_generate", "vllm_chat", "dynamo_chat"])
    def test_of_entries(self, wire: Wire) -> None:
        whole = CHAT_CONTENT if wire == "dynamo_chat" else BODIES[wire]
        entries = b'"top_logprobs":[{"token_id":9,"logprob":-1},{"token_id":8,"logprob":2.5}]}]}'
        body = swap(whole, b'"top_logprobs":[]}]}', entries)
        path = "choices[0].logprobs.content[1].top_logprobs[1].logprob"
        refused(body, MissingFieldError, kind="positive_logprob", path=path, at=b"2.5", wire=wire)
        named = body.replace(b"2.5", b"-9999.0")
        assert tito.decode(named, wire=wire).top_logprobs is not None
        text_only = body.replace(b'"token_id":9,', b"")
        assert tito.decode(text_only, wire=wire).top_logprobs is None

    def test_of_sglang(self) -> None:
        body = swap(SGLANG, b'"completion_tokens":2', b'"output_top_logprobs":[null,[[-1,9],[0.5,8,null]]]')
        path = "meta_info.output_top_logprobs[1][1][0]"
        refused(body, MissingFieldError, kind="positive_logprob", path=path, at=b"0.5", wire="sglang_generate")


def scored(wire: Wire, scores: Any, place: str = "top") -> bytes:
    """An answer of one sampled token with these scores of the prompt."""
    if wire == "sglang_generate":
        return json.dumps({"output_ids": [7], "meta_info": {"finish_reason": None, **scores}}).encode()
    document: dict[str, Any] = {"choices": [{"token_ids": [7], "finish_reason": "length"}]}
    held = {"prompt_logprobs": scores}
    if place == "top":
        document |= held
    else:
        document["nvext"] = {"engine_data": held} if place == "engine_data" else held
    return json.dumps(document).encode()


class TestPrompt:
    @pytest.mark.parametrize(
        ("wire", "place", "path"),
        [
            ("vllm_generate", "top", "prompt_logprobs"),
            ("vllm_chat", "top", "prompt_logprobs"),
            *((wire, place, path) for wire in ("dynamo_chat", "dynamo_completions") for place, path in (
                ("engine_data", "nvext.engine_data.prompt_logprobs"),
                ("nvext", "nvext.prompt_logprobs"),
                ("top", "prompt_logprobs"),
            )),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("scoring", [False, True])
    def test_of_the_map_form(self, wire: Wire, place: str, path: str, scoring: bool) -> None:
        def body(own: float, other: float) -> bytes:
            entries = [None, {"2": {"logprob": -1}}, {"9": {"logprob": other}, "3": {"logprob": own}}]
            return scored(wire, entries, place)

        def check(body: bytes, path: str) -> None:
            decode: Any = tito.decode_prompt_logprobs if scoring else tito.decode
            options: dict[str, Any] = {} if scoring else {"require_logprobs": False}
            with pytest.raises(MissingFieldError) as raised:
                decode(body, wire=wire, prompt_token_ids=IDS, missing_logprob="nan", **options)
            assert (raised.value.kind, raised.value.path) == ("positive_logprob", path)
            assert raised.value.offset is not None
            assert body[raised.value.offset :].startswith(b"18.25")

        check(body(18.25, -1), f"{path}[2].3.logprob")
        check(body(-1, 18.25), f"{path}[2].9.logprob")
        check(body(18.25, 18.25), f"{path}[2].3.logprob")
        kept = tito.decode_prompt_logprobs(body(1e-4, -1), wire=wire, prompt_token_ids=IDS)
        assert kept.logprobs[2] == 1e-4

    @pytest.mark.parametrize(
        ("own", "row", "path"),
        [
            ([18.25, 3], None, "meta_info.input_token_logprobs[2][0]"),
            ([-1, 3], [[-2, 8], [18.25, 9]], "meta_info.input_top_logprobs[2][1][0]"),
        ],
    )
    def test_of_sglang(self, own: Any, row: Any, path: str) -> None:
        lists = {"input_token_logprobs": [[None, 1], [-1, 2], own], "input_top_logprobs": [None, None, row]}
        body = scored("sglang_generate", lists)
        options: dict[str, Any] = {"wire": "sglang_generate", "prompt_token_ids": IDS, "require_logprobs": False}
        refused(body, MissingFieldError, kind="positive_logprob", path=path, at=b"18.25", **options)

    def test_of_positions_that_nobody_asked_for_is_not_looked_at(self) -> None:
        entries = [{"1": {"logprob": 5}}, {"2": {"logprob": 5}}, {"3": {"logprob": -1}}]
        body = scored("vllm_generate", entries)
        found = tito.decode_prompt_logprobs(body, wire="vllm_generate", prompt_token_ids=IDS, start=2)
        assert np.array_equal(found.logprobs, [np.nan, np.nan, -1], equal_nan=True)
        path = "prompt_logprobs[0].1.logprob"
        refused(
            body,
            MissingFieldError,
            kind="positive_logprob",
            path=path,
            wire="vllm_generate",
            prompt_token_ids=IDS,
            require_logprobs=False,
        )


MASKS: dict[Wire, tuple[bytes, bytes, str]] = {
    "vllm_generate": (b'"sampling_mask":null', b'"sampling_mask":%b', "choices[0].sampling_mask"),
    "vllm_chat": (b'"routed_experts":null', b'"sampling_mask":%b', "choices[0].sampling_mask"),
    "dynamo_chat": (b'"finished":true', b'"sampling_mask":%b', "nvext.engine_data.sampling_mask"),
    "dynamo_completions": (b'"finished":true', b'"sampling_mask":%b', "nvext.engine_data.sampling_mask"),
    "sglang_generate": (
        b'"completion_tokens":2',
        b'"output_token_sampling_mask":%b',
        "meta_info.output_token_sampling_mask",
    ),
}


@pytest.mark.parametrize("wire", MASKS)
class TestMask:
    def body(self, wire: Wire, mask: bytes) -> bytes:
        old, new, _ = MASKS[wire]
        return swap(BODIES[wire], old, new % mask)

    @pytest.mark.parametrize(
        ("mask", "row", "at"),
        [
            (b"[[5,1],[]]", 1, b"[]"),
            (b"[[],[6]]", 0, b"[],"),
            (b"[[5,1],[5,1]]", 1, b"[5,1]]"),
            (b"[[6],[5]]", 0, b"[6],"),
            (b"[[%b],[5,6]]" % b",".join(b"%d" % i for i in range(100, 300)), 0, b"[100,"),
        ],
    )
    def test_without_the_sampled_token(self, wire: Wire, mask: bytes, row: int, at: bytes) -> None:
        path = f"{MASKS[wire][2]}[{row}]"
        refused(self.body(wire, mask), AlignmentError, kind="sampling_mask", path=path, at=at, wire=wire)

    def test_with_it_anywhere(self, wire: Wire) -> None:
        many = b",".join(b"%d" % i for i in range(100, 300))
        mask = tito.decode(self.body(wire, b"[[%b,5],[6,%b]]" % (many, many)), wire=wire).sampling_mask
        assert mask is not None
        assert mask.offsets.tolist() == [0, 201, 402]


CHOICE_SPANS = (b'"finish_reason":"stop"', b'"weight_versions":%b', "choices[0].weight_versions")
SPANS: dict[Wire, tuple[bytes, bytes, str]] = {
    "sglang_generate": (b'"completion_tokens":2', b'"weight_versions":%b', "meta_info.weight_versions"),
    "vllm_generate": CHOICE_SPANS,
    "vllm_chat": CHOICE_SPANS,
    "dynamo_chat": CHOICE_SPANS,
    "dynamo_completions": CHOICE_SPANS,
}


def spans(*bounds: Any) -> list[dict[str, Any]]:
    return [{"version": f"v{i}", "start": start, "end": end} for i, (start, end) in enumerate(bounds)]


@pytest.mark.parametrize("wire", SPANS)
class TestWeightVersions:
    def body(self, wire: Wire, versions: Any) -> bytes:
        old, new, _ = SPANS[wire]
        return swap(BODIES[wire], old, new % json.dumps(versions).encode())

    @pytest.mark.parametrize("whole", [[(0, 2)], [(0, 1), (1, 2)], [(0, 0), (0, 2)], [(0, 2), (2, 2)], []])
    def test_that_tile_the_completion_are_kept(self, wire: Wire, whole: Any) -> None:
        versions = spans(*whole)
        assert tito.decode(self.body(wire, versions), wire=wire).weight_versions == versions

    @pytest.mark.parametrize(
        ("wrong", "place"),
        [
            ([(0, 2), (1, 2)], 1),
            ([(0, 1)], 0),
            ([(1, 2)], 0),
            ([(0, 0), (1, 2)], 1),
            ([(0, 3)], 0),
            ([(0, 1), (1, 3)], 1),
            ([(1, 2), (0, 1)], 0),
            ([(0, 2), (2, 0)], 1),
            ([(-1, 2)], 0),
            ([(0, 2**64 - 1)], 0),
        ],
    )
    def test_that_do_not_are_refused(self, wire: Wire, wrong: Any, place: int) -> None:
        path = f"{SPANS[wire][2]}[{place}]"
        body = self.body(wire, spans(*wrong))
        refused(body, AlignmentError, kind="weight_span", path=path, at=b'{"version": "v%d"' % place, wire=wire)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"version": "a"},
            {"version": 1, "start": 0, "end": 2},
            {"start": 0, "end": 2},
            {"version": "a", "start": 0.0, "end": 2},
            {"version": "a", "start": 0, "end": None},
            7,
            [0, 2],
        ],
    )
    def test_that_are_no_spans(self, wire: Wire, wrong: Any) -> None:
        path = f"{SPANS[wire][2]}[0]"
        refused(self.body(wire, [wrong]), MalformedBodyError, kind="type", path=path, wire=wire)


def test_a_label_without_positions_stays_one() -> None:
    assert tito.decode(SGLANG, wire="sglang_generate").weight_versions == [{"version": "default"}]


def test_spans_of_each_choice_are_held_against_its_own_tokens() -> None:
    choice = '{"index":%d,"token_ids":%s,"logprobs":{"content":[]},"weight_versions":%s}'
    good = choice % (0, "[]", json.dumps(spans((0, 0))))
    bad = choice % (1, "[]", json.dumps(spans((0, 1))))
    body = f'{{"choices":[{bad},{good}]}}'.encode()
    path = "choices[0].weight_versions[0]"
    refused(body, AlignmentError, kind="weight_span", path=path, wire="vllm_generate", several=True)


def test_bodies_are_whole_without_the_damage() -> None:
    for wire, body in {**BODIES, "vllm_chat": VLLM_CHAT, "vllm_generate": GENERATE}.items():
        assert tito.decode(body, wire=wire).token_ids.tolist() == [5, 6]
