"""Log-probabilities of the right count and form that no engine computed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import LogprobsReport, logprobs_report
from dynamo_tito.rollout import Rollout
from support.chat import ShortRenderer
from support.completions import completion

HONEST = -np.abs(np.random.default_rng(5).normal(size=2_000))


def body(logprobs: Any, top: Any = None) -> bytes:
    """A vLLM answer of these values; ``top`` are the values of the sampled tokens in the top entries."""
    content = []
    for number, value in enumerate(logprobs):
        said = value if top is None else top[number]
        entries = [{"token_id": number, "logprob": said, "rank": 1}, {"token_id": 9_000, "logprob": -3.0, "rank": 2}]
        content.append({"token_id": number, "logprob": value, "rank": 1, "top_logprobs": entries})
    choice = {
        "index": 0,
        "finish_reason": "length",
        "token_ids": [*range(len(content))],
        "logprobs": {"content": content},
    }
    return json.dumps({"request_id": "r", "choices": [choice]}).encode()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_an_engine_computed_has_no_findings(dtype: Any) -> None:
    report = logprobs_report(HONEST.astype(dtype))
    assert (report.tokens, report.missing, report.zeros, report.findings) == (2_000, 0, 0, ())
    assert logprobs_report(np.zeros(0)) == LogprobsReport(0, 0, 0, (0, 0), 0, None, 0, None, 0, None, ())


def test_a_sure_model_gives_exact_zeros() -> None:
    """A short answer of zeros only, and a long one with long runs of zeros, or of the float32 beside it."""
    assert not logprobs_report(np.zeros(32)).findings
    assert not logprobs_report(np.concatenate([np.zeros(500), [-0.25], np.full(500, -1.1920929e-07)])).findings


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (np.zeros(33), "all 33 values are 0: never computed, as under vLLM's n-gram speculation"),
        (np.full(33, -0.0), "all 33 values are 0"),
        (np.concatenate([HONEST[:5], np.full(33, -1.5)]), "33 equal values -1.5 from token 5 on: a constant"),
        (np.array([-1.0, 18.25, 3.0]), "2 values are positive, the first 18.25 at token 1: logits, .* --logprobs-mode"),
        (np.array([-1.0, -9999.0]), "1 values mean that there is none, the first -9999.0 at token 1"),
        (np.array([-1e30, -np.inf]), "2 values mean that there is none, the first -1e.30 at token 0"),
    ],
)
def test_findings(values: Any, finding: str) -> None:
    (found,) = logprobs_report(values).findings
    assert re.match(finding, found)


def test_rounding_is_no_finding_and_thresholds_are_the_callers() -> None:
    assert not logprobs_report(np.array([1e-6, -1.0])).findings
    assert logprobs_report(np.array([1e-6, -1.0]), max_positive=0.0).findings
    assert logprobs_report(np.zeros(5), max_run=4).findings
    assert not logprobs_report(np.zeros(500), max_run=1_000).findings


def test_missing_values_are_counted_and_no_finding() -> None:
    report = logprobs_report(np.full(100, np.nan))
    assert (report.missing, report.longest_run, report.findings) == (100, (0, 0), ())


def test_the_top_entries_say_the_same() -> None:
    values = HONEST[:40]
    rounded = values.astype(np.float32).astype(np.float64)
    assert not logprobs_report(tito.decode(body(values, rounded), wire="vllm_generate")).findings
    shifted = np.roll(values, 1)
    report = logprobs_report(tito.decode(body(values, shifted), wire="vllm_generate"))
    assert report.apart >= 39
    assert any("differ from those of the top entries" in finding for finding in report.findings)


@pytest.mark.parametrize("wrong", [[1, 2], np.zeros(3, np.int64), "text"])
def test_other_types(wrong: Any) -> None:
    with pytest.raises(TypeError, match="logprobs must be a Completion or an array of floats"):
        logprobs_report(wrong)
    with pytest.raises(ValueError, match="one dimension"):
        logprobs_report(np.zeros((2, 2)))


# --- strict ---


def client(answer: bytes, **options: Any) -> tito.TitoClient:
    transport = tito.MockTransport(lambda _: tito.HttpResponse(200, {}, answer))
    return tito.TitoClient("http://engine", model="m", preflight=False, http_client=transport, **options)


def test_a_strict_client_refuses_them() -> None:
    zeros = body([0.0] * 40)
    assert client(zeros).generate([1]).logprobs is not None
    with pytest.raises(tito.MissingFieldError, match="all 40 values are 0") as caught:
        client(zeros, strict_logprobs=True).generate([1])
    assert caught.value.kind == "logprobs"
    assert caught.value.path.startswith("choices[0].logprobs")
    assert client(zeros, strict_logprobs={"max_run": 40}).generate([1]).logprobs is not None
    nothing = json.dumps({"choices": [{"index": 0, "finish_reason": "length", "token_ids": [1]}]}).encode()
    assert client(nothing, strict_logprobs=True).generate([1], sampling_params={"logprobs": None}).logprobs is None


def test_a_strict_rollout_refuses_them() -> None:
    rollout = Rollout(ShortRenderer(), strict_logprobs=True)
    rollout.prompt_ids([{"role": "user", "content": "a"}])
    given = replace(completion([*range(600, 640), 31_997]), logprobs=np.zeros(41))
    with pytest.raises(tito.MissingFieldError, match="all 41 values are 0"):
        rollout.append(given)
    assert rollout.append(replace(given, logprobs=HONEST[:41])) is not None


@pytest.mark.parametrize("kind", ["client", "rollout"])
def test_wrong_options(kind: str) -> None:
    def make(strict: Any) -> object:
        return client(b"", strict_logprobs=strict) if kind == "client" else Rollout(None, strict_logprobs=strict)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="strict_logprobs must be a bool or a mapping, not int"):
        make(1)
    with pytest.raises(ValueError, match="strict_logprobs knows no longest"):
        make({"longest": 3})
