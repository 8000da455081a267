"""Generation artifacts from bytes: those that Dynamo's own code wrote, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dynamo_tito as tito
from dynamo_tito import Limits
from support.artifacts import artifact, bomb, frame, packed, prelude, wrapped

DATA = Path(__file__).parents[1] / "data" / "artifacts"
PROMPT, COMPLETION = [1, 2, 3, 4, 5], [1000, 1001, 1002, 1003]


def read(name: str) -> bytes:
    return (DATA / name).read_bytes()


def routes(rows: int, routers: int, top_k: int, dtype: str = "u1") -> list[NDArray[Any]]:
    random = np.random.default_rng(routers * top_k)
    most = 1 << (8 if dtype == "u1" else 16)
    return [random.integers(0, most, (rows, top_k)).astype(dtype) for _ in range(routers)]


# --- written by ai-dynamo 1.7.0.dev20261026: dynamo/artifacts/vllm/format.py, dynamo/common/metadata_upload.py ---


def test_dynamos_own_with_everything() -> None:
    completion = tito.decode_artifact(read("all.dynexp"), missing_logprob="nan")
    assert completion.token_ids.tolist() == COMPLETION
    assert completion.prompt_token_ids is not None
    assert completion.prompt_token_ids.tolist() == PROMPT
    np.testing.assert_array_equal(completion.logprobs, [-0.5, -1.25, -0.0, np.nan])
    top = completion.top_logprobs
    assert top is not None
    assert [ids.tolist() for ids, _ in top] == [[1000, 7], [1001, 8], [1002, 9], [10, 11]]
    np.testing.assert_array_equal(top[2][1], [0.0, np.nan])
    experts = completion.routed_experts
    assert experts is not None
    assert experts.array.dtype == np.int32
    assert (experts.wire_dtype, experts.start, experts.complete) == ("uint8", 0, True)
    np.testing.assert_array_equal(experts.array, np.load(DATA / "all.npy"))
    assert (completion.finish_reason, completion.aborted, completion.usage) == (None, None, None)


def test_infinity_of_a_sampled_token_is_no_evidence() -> None:
    with pytest.raises(tito.MissingFieldError, match=r"-inf.*selected_logprobs.logprobs\[3\]"):
        tito.decode_artifact(read("plain.dynexp"))


@pytest.mark.parametrize("start", [None, 3])
def test_dynamos_own_of_300_experts_from_a_start_on(start: int | None) -> None:
    completion = tito.decode_artifact(
        read("uint16_start3.dynexp"), require_logprobs=False, experts="native", routed_experts_prompt_start=start
    )
    experts = completion.routed_experts
    assert experts is not None
    assert experts.array.dtype == np.uint16
    assert (experts.start, experts.complete) == (3, start == 3)
    np.testing.assert_array_equal(experts.array, np.load(DATA / "uint16_start3.npy"))


def test_what_sglangs_worker_uploads() -> None:
    completion = tito.decode_artifact(read("choice_0.msgpack.zst"), prompt_len=5)
    assert completion.token_ids.tolist() == COMPLETION
    assert completion.logprobs is not None
    assert completion.logprobs.tolist() == [-0.5, -1.25, 0.0, -2.0]
    assert completion.routed_experts is not None
    np.testing.assert_array_equal(completion.routed_experts.array, np.load(DATA / "all.npy"))
    assert (completion.finish_reason, completion.request_id) == ("length", "r1")
    assert completion.sources["token_ids"] == "output_ids"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.[dm]*[!n]")), ids=lambda path: path.name)
def test_cut_anywhere_or_with_a_changed_byte(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        with pytest.raises(tito.MalformedBodyError):
            tito.decode_artifact(whole[:end])
    for at in range(len(whole)):
        for change in (1, 0x80):
            changed = bytearray(whole)
            changed[at] ^= change
            try:
                tito.decode_artifact(changed, missing_logprob="nan")
            except tito.DecodeError:
                continue


# --- others ---


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dtype", "top_k"), [("u1", 8), ("u1", 1), ("u1", 3), ("u2", 8), ("u2", 5)])
@pytest.mark.parametrize("rows", [1, 64, 200, 5_000])
def test_routers_are_layers(rows: int, dtype: str, top_k: int, compressed: bool) -> None:
    """Small results, and those that are written around the cache."""
    given = routes(rows, 70, top_k, dtype)
    data = artifact(range(rows), [7], routes=given, compressed=compressed)
    expected = np.stack(given, axis=1)
    for mode in ("int32", "native"):
        experts = tito.decode_artifact(data, require_logprobs=False, experts=mode).routed_experts
        assert experts is not None
        assert experts.array.dtype == (np.int32 if mode == "int32" else dtype)
        np.testing.assert_array_equal(experts.array, expected)
    out = np.full(expected.size + 3, -7, np.int32)
    tito.decode_artifact(data, require_logprobs=False, experts_out=out[1:-1])
    np.testing.assert_array_equal(out[1:-2], expected.ravel())
    assert out[[0, -2, -1]].tolist() == [-7, -7, -7]


def test_routers_of_two_widths() -> None:
    given = [*routes(9, 2, 4), *routes(9, 1, 4, "u2")]
    data = artifact(range(9), [7], routes=given)
    experts = tito.decode_artifact(data, require_logprobs=False, experts="native").routed_experts
    assert experts is not None
    assert experts.wire_dtype == "uint16"
    np.testing.assert_array_equal(experts.array, np.stack(given, axis=1))


def test_the_routers_that_are_wanted() -> None:
    given = [*routes(9, 2, 4), *routes(9, 1, 2)]
    data = artifact(range(9), [7], routes=given)
    with pytest.raises(tito.RoutedExpertsError, match="routers= takes those of one shape"):
        tito.decode_artifact(data, require_logprobs=False)
    for wanted in ([0, 10], [10, 0], [20]):
        experts = tito.decode_artifact(data, require_logprobs=False, routers=wanted).routed_experts
        assert experts is not None
        np.testing.assert_array_equal(experts.array, np.stack([given[router // 10] for router in wanted], axis=1))
    with pytest.raises(tito.MissingFieldError, match="no router has the id 30"):
        tito.decode_artifact(data, require_logprobs=False, routers=[30])


@pytest.mark.parametrize(
    ("routers", "error"), [([], ValueError), ([1, 1], ValueError), ([-1], ValueError), (7, TypeError)]
)
def test_routers_that_are_none(routers: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        tito.decode_artifact(b"", routers=routers)


def test_an_expert_beyond_the_router() -> None:
    given = [np.array([[0, 1], [2, 127]], np.uint8), np.array([[0, 1], [128, 2]], np.uint8)]
    with pytest.raises(tito.RoutedExpertsError, match=r"router 10 with 128 experts") as caught:
        tito.decode_artifact(artifact([1, 2], [3], routes=given, experts=128), require_logprobs=False)
    assert (caught.value.kind, caught.value.path) == ("range", "choices[0].moe_routes[1][0]")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_logprob(dtype: Any, value: float) -> None:
    values = np.array([-0.5, value], dtype)
    with pytest.raises(tito.MalformedBodyError, match=r"is no log-probability .*selected_logprobs.logprobs\[1\]"):
        tito.decode_artifact(artifact([1], [2, 3], logprobs=values))


def test_every_half_is_what_numpy_says() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) & (halves <= 0)]
    ids = range(len(halves))
    completion = tito.decode_artifact(artifact([1], ids, logprobs=halves))
    np.testing.assert_array_equal(completion.logprobs, halves.astype(np.float64))


def test_candidates_of_another_row() -> None:
    """A list that is one row off: the sampled token has another log-probability in it."""
    values = np.array([-0.5, -1.0, -2.0], np.float32)
    ids = np.array([[5, 6], [6, 7], [7, 8]])
    good = np.array([[-0.5, -3], [-1, -3], [-2, -3]], np.float32)
    assert tito.decode_artifact(artifact([1], [5, 6, 7], logprobs=values, top=(ids, good))).top_logprobs is not None
    with pytest.raises(tito.AlignmentError, match=r"it was sampled with -0.5 .*topk_logprobs.logprobs\[0\]\[0\]"):
        tito.decode_artifact(artifact([1], [5, 6, 7], logprobs=values, top=(ids, np.roll(good, 1, axis=0))))


def test_one_row_of_routes_too_few_or_too_many() -> None:
    for rows in (3, 5):
        with pytest.raises(tito.RoutedExpertsError, match="need 4"):
            tito.decode_artifact(artifact([1, 2, 3], [4, 5], routes=routes(rows, 2, 2)), require_logprobs=False)


def test_several_choices() -> None:
    data = wrapped(packed({"choices": [{}, {}]}), b"")
    with pytest.raises(tito.MalformedBodyError, match="2 choices; one is read") as caught:
        tito.decode_artifact(data)
    assert caught.value.kind == "several_choices"


def test_contents_that_are_not_there() -> None:
    data = artifact(PROMPT, COMPLETION)
    assert tito.decode_artifact(data, require_logprobs=False).token_ids.tolist() == COMPLETION
    with pytest.raises(tito.MissingFieldError, match="selected_logprobs"):
        tito.decode_artifact(data)
    with pytest.raises(tito.MissingFieldError, match="moe_routes"):
        tito.decode_artifact(data, require_logprobs=False, require_routed_experts=True)


def test_another_prompt() -> None:
    data = artifact(PROMPT, COMPLETION)
    with pytest.raises(tito.AlignmentError, match=r"sequence_token_ids\[4\]"):
        tito.decode_artifact(data, require_logprobs=False, prompt_token_ids=[1, 2, 3, 4, 6])


@pytest.mark.parametrize("data", [bomb(1 << 27), prelude(64, (1 << 26) - 64, compressed=True) + bomb(1 << 26)])
def test_a_bomb_is_refused_by_what_it_says(data: bytes) -> None:
    """Four bytes for each 128 KiB: it is measured before memory is asked for."""
    with pytest.raises(tito.MalformedBodyError, match=r"max_decompressed_bytes=\.\.\.") as caught:
        tito.decode_artifact(data, limits=Limits(max_decompressed_bytes=1 << 20))
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize(("manifest", "tensors"), [(1 << 21, 0), (1, 1 << 27), (1, (1 << 64) - 1)])
def test_sizes_that_the_format_does_not_have(manifest: int, tensors: int) -> None:
    with pytest.raises(tito.MalformedBodyError, match="the format allows"):
        tito.decode_artifact(prelude(manifest, tensors, compressed=True) + frame(b"x"))


def test_something_else() -> None:
    for data in (b'{"choices":[]}', b"\0" * 40, bytearray(30)):
        with pytest.raises(tito.MalformedBodyError, match="no generation artifact begins so"):
            tito.decode_artifact(data)
