"""Generation artifacts of the embedded engine beside those of the real Dynamo 1.7, and in the hands of the clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import RendererTransport, TitoClient, simulator
from dynamo_tito.simulator import Engine, Fault
from dynamo_tito.simulator.artifact import artifact, opened
from support.cases import written
from support.shapes import differences
from support.streams import Pair, pairs

from .test_streams_recorded import RECORDINGS

DATA = Path(__file__).parents[1] / "data" / "artifacts"
PROMPT = [1, 2, 300, 4_000, 31_999]
TRANSPORTS: list[RendererTransport] = ["dynamo_chat", "dynamo_completions"]
UNARY = {
    name: pair
    for name, pair in pairs().items()
    if pair.whole is not None and pair.entry["version"].startswith("1.7.") and pair.entry["status"] == 200
}


@contextmanager
def engine_of(name: str) -> Iterator[Engine]:
    """The engine as it was told to be when the pair was recorded."""
    recording = RECORDINGS[name]
    with simulator.running(**recording.settings) as engine:
        engine.admin.weights = "unknown"
        if recording.fault is not None:
            engine.inject(recording.fault)
        yield engine


def comparable(completion: tito.Completion) -> dict[str, Any]:
    """All but the name of the request, and what SGLang's own engine says more and in other decimals."""
    found = written(completion, "int32")
    sglang = "meta_info.output_token_logprobs" in found["sources"].values()
    decimals = ("logprobs", "top_logprobs", "prompt_logprobs") if sglang else ()
    return {name: value for name, value in found.items() if name not in (*UNEQUAL, *decimals)}


UNEQUAL = ("request_id", "weight_versions", "usage", "engine")


def told(pair: Pair, body: bytes) -> tito.Completion | str:
    try:
        return tito.decode(body, wire=pair.entry["wire"], **pair.entry["decode"])
    except tito.DecodeError as error:
        return f"{type(error).__name__} {error.kind} {error.path}"


@pytest.mark.parametrize("name", UNARY)
def test_answers_are_those_of_the_real_frontend(name: str) -> None:
    pair = UNARY[name]
    assert pair.whole is not None
    with engine_of(name) as engine:
        url = engine.url + pair.entry["path"]
        answer = httpx.post(url, json=pair.entry["request"], trust_env=False, verify=False, timeout=60.0)
    assert answer.status_code == 200
    found = differences(answer.json(), json.loads(pair.whole))
    # The stand-in engine leaves out what SGLang's own says.
    assert [line for line in found if not line.startswith(".meta_info: keys")] == []
    ours, theirs = told(pair, answer.content), told(pair, pair.whole)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    assert comparable(ours) == comparable(theirs)
    if ours.logprobs is not None and theirs.logprobs is not None:
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=1e-5)


def test_the_bytes_are_those_of_dynamos_own_encoder() -> None:
    data = (DATA / "plain.dynexp").read_bytes()
    theirs = tito.decode_artifact(data, missing_logprob="nan")
    assert theirs.prompt_token_ids is not None
    assert theirs.logprobs is not None
    manifest, tensors = opened(
        artifact(
            theirs.prompt_token_ids.astype(np.int64),
            theirs.token_ids.astype(np.int64),
            logprobs=np.nan_to_num(theirs.logprobs, nan=-np.inf, neginf=-np.inf),
        )
    )
    size = int.from_bytes(data[14:18], "little")
    assert manifest == data[26 : 26 + size]
    assert tensors == data[26 + size + -size % 64 :]


@pytest.fixture(params=TRANSPORTS)
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[Engine, TitoClient]]]:
    with simulator.running(backend="dynamo", dynamo_version="1.7") as engine:

        def client(**options: Any) -> tuple[Engine, TitoClient]:
            made = TitoClient(engine.url, model="tito-model", transport=request.param, trust_env=False, **options)
            request.addfinalizer(made.close)
            return engine, made

        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("candidates", [1, 3])
def test_a_client_reads_it(connect: Callable[..., tuple[Engine, TitoClient]], candidates: int, stream: bool) -> None:
    engine, client = connect()
    params = {"max_tokens": 6, "logprobs": candidates}
    completion = client.generate(PROMPT, artifact="inline", stream=stream, sampling_params=params)
    (sample,) = engine.requests[-1].samples
    np.testing.assert_array_equal(completion.token_ids, sample.token_ids)
    np.testing.assert_array_equal(completion.prompt_token_ids, PROMPT)
    np.testing.assert_array_equal(completion.logprobs, sample.logprobs.astype(np.float32))
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, sample.routed_experts)
    assert completion.sources["token_ids"].startswith("nvext.metadata_upload.data_base64")
    assert (completion.top_logprobs is None) == (candidates == 1)


FAULTS: dict[str, tuple[Fault, type[tito.DecodeError], str]] = {
    "cut": (Fault(kind="artifact_cut", by=9), tito.MalformedBodyError, "zstd"),
    "all of it": (Fault(kind="artifact_cut", by=1 << 20), tito.MalformedBodyError, "truncated"),
    "size": (Fault(kind="artifact_size", by=-1), tito.MalformedBodyError, "size"),
    "failed": (Fault(kind="artifact_failed", message="capture_capacity"), tito.MissingFieldError, "artifact_failed"),
    "of another prompt": (Fault(kind="artifact_ids", at=2), tito.AlignmentError, "prompt_mismatch"),
    "too many rows": (Fault(kind="wrong_rows", by=1), tito.MissingFieldError, "artifact_failed"),
    "too few rows": (Fault(kind="wrong_rows", by=-1), tito.RoutedExpertsError, "rows"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_artifact_is_refused(
    connect: Callable[..., tuple[Engine, TitoClient]], fault: str, stream: bool
) -> None:
    engine, client = connect()
    played, error, kind = FAULTS[fault]
    engine.inject(played)
    with pytest.raises(error) as caught:
        client.generate(PROMPT, artifact="inline", stream=stream, sampling_params={"max_tokens": 4})
    assert caught.value.kind == kind
    assert not engine.faults.pending()


def test_other_tokens_than_the_stream_has_named(connect: Callable[..., tuple[Engine, TitoClient]]) -> None:
    for at, kind in ((len(PROMPT), "contradiction"), (-1, "identity")):
        engine, client = connect()
        engine.inject(Fault(kind="artifact_ids", at=at))
        with pytest.raises(tito.AlignmentError) as caught:
            client.generate(PROMPT, artifact="inline", stream=True, sampling_params={"max_tokens": 4})
        assert caught.value.kind == kind


def test_an_aborted_request_has_none(connect: Callable[..., tuple[Engine, TitoClient]]) -> None:
    engine, client = connect()
    for stream in (False, True):
        engine.inject(Fault(kind="abort", at=3))
        with pytest.raises(tito.MissingFieldError):
            client.generate(PROMPT, artifact="inline", stream=stream, sampling_params={"max_tokens": 6})


UPLOAD: dict[str, Any] = {"kind": "generation_artifact", "contents": ["moe_routes"], "mode": "inline_base64"}
SHAPE = "invalid generation_artifact metadata_upload shape"
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "kind": ({**UPLOAD, "kind": "other"}, {}, "unsupported metadata_upload kind"),
    "no mode": ({"kind": "generation_artifact", "contents": []}, {}, SHAPE),
    "a mode": ({**UPLOAD, "mode": "ftp"}, {}, SHAPE),
    "null": ({**UPLOAD, "contents": None}, {}, SHAPE),
    "unknown": ({**UPLOAD, "nope": 1}, {}, SHAPE),
    "twice": (
        {**UPLOAD, "contents": ["a", "a"]},
        {},
        "artifact contents must contain at most 64 unique nonempty names",
    ),
    "a store": ({**UPLOAD, "mode": "object_store"}, {}, "artifact destination is incompatible with the delivery mode"),
    "a list": ([1], {}, "metadata_upload must be an object"),
    "legacy": ({"mode": "inline_base64"}, {}, "unknown legacy metadata_upload field"),
    "contents": ({**UPLOAD, "contents": ["routes"]}, {}, "invalid artifact contents"),
    "n": (UPLOAD, {"n": 2}, "generation_artifact metadata_upload requires a single prompt and n = best_of = 1"),
    "stop": (UPLOAD, {"stop": ["a"]}, "generation_artifact metadata_upload does not support stop strings"),
    "long": (UPLOAD, {"max_tokens": 60_000}, "artifact exceeds inline worst-case size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_requests_are_refused_as_the_real_frontend_does(case: str) -> None:
    upload, more, message = REFUSED[case]
    body = {"model": "tito-model", "max_tokens": 4, "prompt": PROMPT, "nvext": {"metadata_upload": upload}, **more}
    with simulator.running(backend="dynamo", dynamo_version="1.7") as engine:
        answer = httpx.post(f"{engine.url}/v1/completions", json=body, trust_env=False, verify=False)
    assert answer.status_code == 400
    prefix = "Failed to deserialize the JSON body into the target type: "
    text = answer.json()["message"].removeprefix(prefix)
    assert text.partition(" at line ")[0] == message


def test_without_routers_no_routes_are_captured() -> None:
    body = {"model": "tito-model", "prompt": PROMPT, "nvext": {"metadata_upload": UPLOAD}}
    with simulator.running(backend="dynamo", dynamo_version="1.7", routed_experts=False) as engine:
        answer = httpx.post(f"{engine.url}/v1/completions", json=body, trust_env=False, verify=False)
    assert "routed-expert capture and declared router profile are required" in answer.json()["message"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_older_frontend_knows_no_artifacts(transport: RendererTransport) -> None:
    with (
        simulator.running(backend="dynamo") as engine,
        TitoClient(engine.url, model="tito-model", transport=transport, trust_env=False) as client,
        pytest.raises(tito.BadRequestError, match="unknown field `kind`, expected `url`"),
    ):
        client.generate(PROMPT, artifact="inline")


def test_a_large_artifact_has_several_blocks() -> None:
    routes = np.arange(3_000 * 48 * 8, dtype=np.int64).reshape(3_000, 48, 8) % 256
    data = artifact(np.arange(1_000), np.arange(2_001), routes=routes, experts=256)
    completion = tito.decode_artifact(data, require_logprobs=False)
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, routes)
