"""However a stream is cut, spelled or interrupted: the same answer, the same error, or a prefix of the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamo_tito as tito
from dynamo_tito import Completion, StreamDelta
from support.streams import Pair, pairs

PAIRS = pairs()
every_stream = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
SGLANG = [pair for pair in PAIRS.values() if pair.entry["wire"] == "sglang_generate" and pair.entry["status"] != 400]

Outcome = list[Completion] | tuple[Any, ...]


def refusal(error: Exception) -> tuple[Any, ...]:
    """All that an error says."""
    return type(error), str(error), getattr(error, "kind", None), getattr(error, "path", None), error.__dict__


def outcome(pieces: Iterable[bytes], arguments: dict[str, Any]) -> Outcome:
    """The completions of a stream fed in pieces, or its error."""
    decoder = tito.StreamDecoder(**arguments)
    try:
        for piece in pieces:
            decoder.feed_choices(piece)
        return decoder.finish_choices()
    except (tito.TitoError, ValueError) as error:
        return refusal(error)


def same(one: Outcome, other: Outcome) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        return one == other
    return len(one) == len(other) and all(a.equals(b) for a, b in zip(one, other, strict=True))


def bytewise(stream: bytes) -> Iterable[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


@every_stream
def test_a_stream_cut_at_any_byte_is_the_same(pair: Pair) -> None:
    stream, arguments = pair.stream, pair.arguments
    whole = outcome([stream], arguments)
    assert same(outcome(bytewise(stream), arguments), whole)
    for cut in range(1, len(stream)):
        assert same(outcome([stream[:cut], stream[cut:]], arguments), whole), cut


@every_stream
@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["crlf", "cr"])
def test_line_ends_comments_and_other_fields_change_nothing(pair: Pair, end: bytes) -> None:
    arguments = pair.arguments
    whole = outcome([pair.stream], arguments)
    if isinstance(whole, tuple):
        return
    events = pair.stream.split(b"\n\n")
    noisy = b"\xef\xbb\xbf: hello\n\n" + b"\n: ping\n\nretry: 5\nid\n".join(event + b"\n\n" for event in events[:-1])
    spelled = noisy.replace(b"\n", end)
    for cut in range(0, len(spelled), 7):
        assert same(outcome([spelled[:cut], spelled[cut:]], arguments), whole), cut
    assert same(outcome(bytewise(spelled), arguments), whole)


@given(st.data(), st.sampled_from(sorted(PAIRS)))
def test_any_cuts_give_the_same_deltas_and_the_same_answer(data: st.DataObject, name: str) -> None:
    pair = PAIRS[name]
    stream = pair.stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert same(outcome(pieces, pair.arguments), outcome([stream], pair.arguments))
    decoder = tito.StreamDecoder(**pair.arguments)
    told: dict[int, list[StreamDelta]] = {}
    try:
        for piece in pieces:
            for delta in decoder.feed_choices(piece):
                told.setdefault(delta.index, []).append(delta)
        completions = decoder.finish_choices()
    except (tito.TitoError, ValueError):
        return
    for completion in completions:
        deltas = told[completion.index]
        check_deltas(deltas, completion)


def check_deltas(deltas: list[StreamDelta], completion: Completion) -> None:
    """End to end they are the completion."""
    at = 0
    for delta in deltas:
        assert delta.start == at
        at += len(delta.token_ids)
        if delta.logprobs is not None and completion.logprobs is not None:
            assert close(delta.logprobs, completion.logprobs[delta.start : at])
        if delta.top_logprobs is not None and completion.top_logprobs is not None:
            rows = [*completion.top_logprobs][delta.start : at]
            for (ids, values), (expected, numbers) in zip(delta.top_logprobs, rows, strict=True):
                assert np.array_equal(ids, expected)
                assert np.array_equal(values, numbers, equal_nan=True)
    assert np.array_equal(np.concatenate([delta.token_ids for delta in deltas]), completion.token_ids)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [completion.finish_reason]
    assert deltas[-1].finish_reason


@every_stream
def test_a_stream_that_breaks_off_anywhere_leaves_a_prefix(pair: Pair) -> None:
    stream, arguments = pair.stream, pair.arguments
    whole = outcome([stream], arguments)
    if isinstance(whole, tuple):
        return
    tokens, missing = 0, {"missing"}
    for cut in range(len(stream)):
        decoder = tito.StreamDecoder(**arguments)
        decoder.feed_choices(stream[:cut])
        if not decoder.done:
            with pytest.raises(tito.MalformedBodyError) as unfinished:
                decoder.finish_choices()
            assert (unfinished.value.kind, unfinished.value.offset) == ("unfinished_stream", cut)
        assert decoder.tokens >= tokens
        tokens = decoder.tokens
        try:
            prefixes = decoder.abandon_choices()
        except tito.MissingFieldError as error:
            # Ids or log-probabilities that only the last event names.
            missing.add(error.kind)
            continue
        by_index = {completion.index: completion for completion in whole}
        for prefix in prefixes:
            check_prefix(prefix, by_index[prefix.index])
    assert missing == {"missing"}
    assert tokens == sum(len(completion.token_ids) for completion in whole)


def close(values: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> bool:
    """Equal up to rounding: Dynamo's entries are rounded to float32, its own list at the end is not."""
    # Most are equal bit by bit, which is faster to see.
    return values.tobytes() == others.tobytes() or np.allclose(values, others, 1e-6, 0, equal_nan=True)


def check_prefix(prefix: Completion, whole: Completion) -> None:
    count = len(prefix.token_ids)
    assert np.array_equal(prefix.token_ids, whole.token_ids[:count])
    if prefix.logprobs is not None and whole.logprobs is not None:
        assert close(prefix.logprobs, whole.logprobs[:count])
    if prefix.finish_reason_raw is None:
        assert (prefix.finish_reason, prefix.aborted, prefix.complete) == ("abort", True, False)
        assert prefix.routed_experts is None
    else:
        assert prefix.finish_reason == whole.finish_reason
        assert (prefix.routed_experts is None) == (whole.routed_experts is None)


def cumulative(stream: bytes) -> bytes:
    """The same answer as SGLang streams it by default: each chunk says everything so far."""
    lists: dict[str, list[Any]] = {}

    def joined(name: str, new: list[Any]) -> list[Any]:
        lists[name] = lists.get(name, []) + new
        return lists[name]

    events = []
    for event in stream.split(b"\n\n")[:-2]:
        chunk = json.loads(event.removeprefix(b"data: "))
        chunk["output_ids"] = joined("output_ids", chunk["output_ids"])
        for name in ("output_token_logprobs", "output_top_logprobs", "output_token_sampling_mask"):
            if chunk["meta_info"].get(name) is not None:
                chunk["meta_info"][name] = joined(name, chunk["meta_info"][name])
        events.append(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    return b"".join(events) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("pair", SGLANG, ids=lambda pair: pair.name)
def test_a_cumulative_stream_is_the_same_as_one_of_new_tokens(pair: Pair) -> None:
    whole = outcome([pair.stream], pair.arguments)
    if isinstance(whole, tuple):
        assert whole[0] is tito.ServerError
        return
    repeated = cumulative(pair.stream)
    assert same(outcome([repeated], pair.arguments), whole)
    decoder = tito.StreamDecoder(**pair.arguments)
    deltas = [*map(decoder.feed, repeated.splitlines(keepends=True))]
    check_deltas([delta for delta in deltas if delta is not None], decoder.finish())


Change = Callable[[dict[str, Any]], None]


def changed(stream: bytes, number: int, change: Change) -> bytes:
    """The stream with one chunk changed."""
    events = stream.split(b"\n\n")
    chunk = json.loads(events[number].removeprefix(b"data: "))
    change(chunk)
    events[number] = b"data: " + json.dumps(chunk).encode()
    return b"\n\n".join(events)


def other_id(chunk: dict[str, Any]) -> None:
    chunk["output_ids"][0] += 1
    chunk["meta_info"]["output_token_logprobs"][0][1] += 1


def other_value(chunk: dict[str, Any]) -> None:
    chunk["meta_info"]["output_token_logprobs"][0][0] -= 0.5


def other_count(chunk: dict[str, Any]) -> None:
    chunk["meta_info"]["completion_tokens"] += 7


@pytest.mark.parametrize(
    ("change", "kind", "path"),
    [
        (other_id, "contradiction", "events[2].output_ids[0]"),
        (other_value, "contradiction", "events[2].meta_info.output_token_logprobs[0]"),
        (other_count, "count", "events[2].meta_info.completion_tokens"),
    ],
)
def test_a_cumulative_chunk_that_contradicts_is_refused(change: Change, kind: str, path: str) -> None:
    pair = PAIRS["dynamo-1.6.1/sglang_logprobs"]
    refused = outcome([changed(cumulative(pair.stream), 2, change)], pair.arguments)
    assert isinstance(refused, tuple)
    assert (refused[0], refused[2], refused[3]) == (tito.AlignmentError, kind, path)
