"""Refusals of prompts and their log-probabilities (rule 8)."""

from __future__ import annotations

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import AlignmentError, MalformedBodyError, MissingFieldError
from support.small import SGLANG, VLLM_CHAT, refused, swap


class TestPrompt:
    SCORES = b'[null,{"2":{"logprob":-2.5},"9":{"logprob":-0.1}},{"9":{"logprob":-0.2},"3":{"logprob":-3.5}}]'
    PATH = "prompt_logprobs"

    def body(self, scores: bytes = SCORES) -> bytes:
        return swap(VLLM_CHAT, b'"prompt_logprobs":null', b'"prompt_logprobs":' + scores)

    def test_scores_are_those_of_the_prompts_own_tokens(self) -> None:
        found = tito.decode(self.body(), wire="vllm_chat").prompt_logprobs
        assert found is not None
        assert np.array_equal(found.logprobs, [np.nan, -2.5, -3.5], equal_nan=True)
        assert [ids.tolist() for ids, _ in found.top] == [[], [9, 2], [9, 3]]
        assert [scores.tolist() for _, scores in found.top] == [[], [-0.1, -2.5], [-0.2, -3.5]]

    def test_an_entry_without_the_actual_token(self) -> None:
        body = self.body(self.SCORES.replace(b'"3"', b'"4"'))
        refused(body, AlignmentError, kind="identity", path=f"{self.PATH}[2]", at=b'{"9"', wire="vllm_chat")

    def test_ids_that_differ_from_the_echo(self) -> None:
        for passed, path in (
            ([1, 2, 4], "prompt_token_ids[2]"),
            ([1, 2], "prompt_token_ids"),
            ([], "prompt_token_ids"),
        ):
            error = refused(
                self.body(),
                AlignmentError,
                kind="prompt_mismatch",
                path=path,
                at=b"[1,2,3]",
                wire="vllm_chat",
                prompt_token_ids=passed,
            )
            assert error.path == path

    def test_ids_passed_instead_of_echoed(self) -> None:
        body = swap(self.body(), b'"prompt_token_ids":[1,2,3]', b'"prompt_token_ids":null')
        unread = tito.decode(body, wire="vllm_chat")
        assert unread.prompt_logprobs is None
        assert "prompt_logprobs" in unread.sources
        for ids in ([1, 2, 3], np.array([1, 2, 3], np.int32), np.array([1, 2, 3], np.int64)):
            found = tito.decode(body, wire="vllm_chat", prompt_token_ids=ids).prompt_logprobs
            assert found is not None
            assert np.array_equal(found.logprobs, [np.nan, -2.5, -3.5], equal_nan=True)

    @pytest.mark.parametrize(
        ("scores", "error", "kind", "inside"),
        [
            (b"{}", MalformedBodyError, "type", ""),
            (b"[null,7,null]", MalformedBodyError, "type", "[1]"),
            (b"[null,null]", AlignmentError, "count", ""),
            (b"[null,null,null,null]", AlignmentError, "count", ""),
            (b'[null,null,{"3":{"logprob":-1}}]', MissingFieldError, "no_logprob", "[1]"),
            (b'[null,{"2":{"logprob":-9999}},{"3":{"logprob":-1}}]', MissingFieldError, "no_logprob", "[1].2.logprob"),
            (b'[null,{"2":{"logprob":-1e30}},{"3":{"logprob":-1}}]', MissingFieldError, "no_logprob", "[1].2.logprob"),
            (b'[null,{"2":{"logprob":null}},{"3":{"logprob":-1}}]', MissingFieldError, "no_logprob", "[1].2.logprob"),
            (b'[null,{"2":{"rank":1}},{"3":{"logprob":-1}}]', MissingFieldError, "missing", "[1].2.logprob"),
            (b'[null,{"2":{"logprob":"x"}},{"3":{"logprob":-1}}]', MalformedBodyError, "type", "[1].2.logprob"),
            (b'[null,{"2":-1},{"3":{"logprob":-1}}]', MalformedBodyError, "type", "[1].2"),
            (b'[null,{"two":{"logprob":-1}},{"3":{"logprob":-1}}]', MalformedBodyError, "type", "[1]"),
            (b'[null,{"02":{"logprob":-1}},{"3":{"logprob":-1}}]', MalformedBodyError, "type", "[1]"),
            (b'[null,{"2":{"logprob":-1},"2":{"logprob":-1}},{"3":{"logprob":-1}}]', MalformedBodyError,
             "duplicate_key", "[1].2"),
            (rb'[null,{"2":{"logprob":-1},"\u0032":{"logprob":-1}},{"3":{"logprob":-1}}]', MalformedBodyError,
             "duplicate_key", "[1].2"),
        ],
    )  # fmt: skip
    def test_scores_of_the_wrong_form(
        self, scores: bytes, error: type[tito.DecodeError], kind: str, inside: str
    ) -> None:
        refused(self.body(scores), error, kind=kind, path=self.PATH + inside, wire="vllm_chat")

    def test_no_evidence_may_be_nan(self) -> None:
        body = self.body(b'[null,{"2":{"logprob":-9999.0}},{"3":{"logprob":-1}}]')
        found = tito.decode(body, wire="vllm_chat", missing_logprob="nan").prompt_logprobs
        assert found is not None
        assert np.array_equal(found.logprobs, [np.nan, np.nan, -1.0], equal_nan=True)

    def test_of_sglang_that_names_another_token(self) -> None:
        body = swap(
            SGLANG, b'"input_token_logprobs":[]', b'"input_token_logprobs":[[null,1,null],[-1,2,null],[-2,4,null]]'
        )
        path = "meta_info.input_token_logprobs[2][1]"
        refused(
            body,
            AlignmentError,
            kind="identity",
            path=path,
            at=b"4",
            wire="sglang_generate",
            prompt_token_ids=[1, 2, 3],
        )

    def test_of_sglang_from_a_later_position(self) -> None:
        body = swap(SGLANG, b'"input_token_logprobs":[]', b'"input_token_logprobs":[[null,2,null],[-2,3,null]]')
        path = "meta_info.input_token_logprobs"
        refused(body, AlignmentError, kind="count", path=path, wire="sglang_generate", prompt_token_ids=[1, 2, 3])
