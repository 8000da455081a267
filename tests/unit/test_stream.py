"""The stream decoder: framing, what it says of an interrupted stream, and how it behaves when it is used wrongly."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import dynamo_tito as tito
from dynamo_tito import StreamDecoder, Wire
from support.small import BODIES
from support.streams import pairs

CHUNK = (
    '{{"request_id":"r","choices":[{{"index":{index},"token_ids":[{id}],"logprobs":{{"content":'
    '[{{"token_id":{id},"logprob":-0.5}}]}},"finish_reason":{finish}}}]}}'
)
DONE = b"data: [DONE]\n\n"


def event(token: int, finish: str | None = None, index: int = 0) -> bytes:
    chunk = CHUNK.format(id=token, index=index, finish=f'"{finish}"' if finish else "null")
    return f"data: {chunk}\n\n".encode()


def decoder(wire: Wire = "vllm_generate", **options: Any) -> StreamDecoder:
    return StreamDecoder(wire=wire, **options)


def fed(*pieces: bytes, **options: Any) -> StreamDecoder:
    stream = decoder(**options)
    for piece in pieces:
        stream.feed(piece)
    return stream


def read(stream: StreamDecoder, pieces: list[bytes]) -> tito.Completion:
    for piece in pieces:
        stream.feed(piece)
    return stream.finish()


WHOLE = event(5) + event(6, "stop") + DONE


@pytest.mark.parametrize("wire", BODIES)
def test_a_unary_answer_in_one_event_is_the_same_completion(wire: Wire) -> None:
    stream = decoder(wire)
    stream.feed(b"data: " + BODIES[wire] + b"\n\n" + DONE)
    assert stream.finish().equals(tito.decode(BODIES[wire], wire=wire))


@pytest.mark.parametrize("wire", BODIES)
def test_a_body_of_plain_json_is_no_stream(wire: Wire) -> None:
    stream = decoder(wire)
    stream.feed(b" \r\n" + BODIES[wire])
    with pytest.raises(tito.MalformedBodyError) as refused:
        stream.finish()
    assert (refused.value.kind, refused.value.path, refused.value.offset) == ("not_a_stream", "", 3)
    with pytest.raises(tito.MalformedBodyError, match="events were expected"):
        decoder(wire).feed(b"[" + b" " * 65536)
    stream = decoder(wire)
    stream.feed(b'{"error":{"message":"no such model"}}')
    with pytest.raises(tito.ServerError, match="no such model") as error:
        stream.finish()
    assert error.value.body == '{"error":{"message":"no such model"}}'
    stream = decoder(wire)
    stream.feed(b'{"error":"no such model"}')
    with pytest.raises(tito.ServerError):
        stream.abandon()


FRAMINGS: dict[str, bytes] = {
    "no space": WHOLE.replace(b"data: ", b"data:"),
    "message": b"event: message\n" + event(5) + b"event\n" + event(6, "stop") + DONE,
    "an annotation": b"event: token_ids\ndata: [1,2]\n\n" + WHOLE,
    "an annotation in a comment": b'event: token_ids\n: "1"\n\n' + WHOLE,
    "keys that are like data": b"dat\ndata_: x\n data: y\ndatab: z\n\n" + WHOLE,
    "an event of fields only": b"id: 7\nretry: 1\n\n" + WHOLE,
    "json over several lines": event(5).replace(b",", b",\ndata: ") + event(6, "stop") + DONE,
    "blank lines": b"\n\r\n\r" + WHOLE.replace(b"\n\n", b"\n\n\n\r\n"),
    "comments after the end": WHOLE + b":\n\n: bye\r\r\n\n",
    "an unfinished event after the end": WHOLE + b": still",
    "one line end of each kind": (
        event(5).replace(b"\n\n", b"\r\r\n") + event(6, "stop").replace(b"\n\n", b"\r\n\r") + DONE
    ),
    "a mark": b"\xef\xbb\xbf" + WHOLE,
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_framing(name: str) -> None:
    stream = FRAMINGS[name]
    whole = fed(stream).finish()
    assert whole.token_ids.tolist() == [5, 6]
    assert whole.equals(fed(WHOLE).finish())
    for cut in range(len(stream)):
        assert fed(stream[:cut], stream[cut:]).finish().equals(whole), cut
    assert fed(*(stream[at : at + 1] for at in range(len(stream)))).finish().equals(whole)


LOGPROBS = b'{"content":[{"token_id":6,"logprob":-0.5}]}'
EARLY = b'"routed_experts":"AAAA","finish'
CONTENT = "choices[0].logprobs.content"

# The stream, the kind, the path, and what stands at the offset.
REFUSED: dict[str, tuple[bytes, str, str, bytes | None]] = {
    "syntax": (event(4) + event(5).replace(b"-0.5", b"0.5."), "syntax", "events[1]", b".}]"),
    "a value": (event(5).replace(b"-0.5", b"0.5"), "positive_logprob", f"events[0].{CONTENT}[0].logprob", b"0.5}"),
    "another token": (event(5).replace(b"[5]", b"[6]"), "identity", f"events[0].{CONTENT}[0].token_id", b"5,"),
    "several lines": (
        event(5).replace(b'"finish', b'\ndata:"finish').replace(b"null", b"nul"),
        "syntax",
        "events[0]",
        b"}]}",
    ),
    "empty data": (b"data\n\n", "truncated", "events[0]", b"\n\n"),
    "no JSON": (b"data: hello\n\n", "syntax", "events[0]", b"hello"),
    "after the end": (WHOLE + b"data: x", "trailing_data", "", b"data: x"),
    "more tokens": (event(5, "stop") + event(6), "after_finish", "events[1].choices[0].token_ids", b"[6]"),
    "another reason": (
        event(5, "stop") + event(6, "length").replace(b"[6]", b"[]").replace(LOGPROBS, b"null"),
        "contradiction",
        "events[1].choices[0]",
        None,
    ),
    "another request": (event(5) + event(6).replace(b'"r"', b'"s"'), "mixed_streams", "events[1].request_id", b'"s"'),
    "a second choice": (event(5) + event(6, index=1), "several_choices", "events[1].choices[0].index", b"1,"),
    "no ids": (event(6).replace(b'"token_ids":[6],', b""), "missing", "events[0].choices[0].token_ids", None),
    "routing before the end": (
        event(5).replace(b'"finish', EARLY),
        "early",
        "events[0].choices[0].routed_experts",
        b'"AAAA"',
    ),
    "no end": (event(5, "stop"), "unfinished_stream", "", b""),
    "no reason": (event(5) + DONE, "unfinished_stream", "", b""),
    "no answer": (DONE, "unfinished_stream", "", b""),
    "some without logprobs": (
        event(5) + event(6, "stop").replace(LOGPROBS, b"null") + DONE,
        "count",
        CONTENT,
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_stream_stays_refused(name: str) -> None:
    stream, kind, path, at = REFUSED[name]

    def refused(pieces: list[bytes]) -> tuple[Any, ...]:
        reading = decoder()
        with pytest.raises(tito.DecodeError) as error:
            read(reading, pieces)
        if kind != "unfinished_stream":
            for again in (lambda: reading.feed(b"\n"), reading.finish, reading.abandon):
                with pytest.raises(type(error.value)) as repeated:
                    again()
                assert repeated.value.__dict__ == error.value.__dict__
        return type(error.value), error.value.kind, error.value.path, error.value.offset

    found = refused([stream])
    offset = None if at is None else len(stream) if not at else stream.rindex(at)
    assert found[1:] == (kind, path, offset)
    for cut in range(len(stream)):
        assert refused([stream[:cut], stream[cut:]]) == found, cut


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (b'data: {"error":{"message":"out of memory","type":"x","code":500}}\n\n', "out of memory"),
        (b"event: error\n: it broke\n: badly\n\n", "it broke badly"),
        (b"event: error\ndata: it broke\n\n", "it broke"),
        (b'event: error\ndata: {"message":"it broke"}\n\n', "it broke"),
        (b"event: error\n\n", "the server answered with an error"),
    ],
)
def test_an_error_in_the_stream_leaves_what_came_before_it(error: bytes, said: str) -> None:
    for cut in range(len(error)):
        stream = decoder()
        with pytest.raises(tito.ServerError) as refused:
            read(stream, [event(5), error[:cut], error[cut:] + DONE])
        assert str(refused.value) == said
        with pytest.raises(tito.ServerError):
            stream.finish()
        assert stream.abandon().token_ids.tolist() == [5]


def test_an_engine_that_fails_leaves_nothing() -> None:
    stream = fed(event(5))
    with pytest.raises(tito.EngineError):
        stream.feed(event(6, "error"))
    with pytest.raises(tito.EngineError):
        stream.abandon()


@pytest.mark.parametrize("wire", BODIES)
def test_a_stream_of_nothing_leaves_an_empty_completion(wire: Wire) -> None:
    for piece in (b"", b"\n: hello\n\n", b"data: {"):
        stream = decoder(wire)
        assert stream.feed(piece) is None
        empty = stream.abandon()
        assert (len(empty.token_ids), empty.index, empty.complete, empty.aborted) == (0, 0, False, True)
        assert empty.logprobs is not None
        assert len(empty.logprobs) == 0
        stream = decoder(wire)
        assert stream.feed_choices(piece) == []
        assert stream.abandon_choices() == []


def test_an_abandoned_stream_is_aborted_and_not_complete() -> None:
    stream = fed(event(5), event(6)[:-1])
    with pytest.raises(tito.MalformedBodyError, match="broke off"):
        stream.finish()
    stream.feed(b"\n" + event(7)[:-5])
    prefix = stream.abandon()
    assert prefix.token_ids.tolist() == [5, 6]
    assert (prefix.finish_reason, prefix.finish_reason_raw, prefix.aborted) == ("abort", None, True)
    assert prefix.complete is False
    ended = fed(event(5), event(6, "abort")).abandon()
    assert (ended.finish_reason, ended.finish_reason_raw, ended.complete) == ("abort", "abort", True)


def test_choices_end_one_by_one() -> None:
    stream = decoder()
    pieces = event(5) + event(7, index=1) + event(6, "stop") + event(8, index=1)
    deltas = stream.feed_choices(pieces)
    assert [(delta.index, delta.token_ids.tolist(), delta.finish_reason) for delta in deltas] == [
        (0, [5, 6], "stop"),
        (1, [7, 8], None),
    ]
    assert stream.tokens == 4
    with pytest.raises(tito.MalformedBodyError) as several:
        stream.abandon()
    assert several.value.kind == "several_choices"
    first, second = stream.abandon_choices()
    assert (first.token_ids.tolist(), first.finish_reason, first.complete) == ([5, 6], "stop", True)
    assert (second.token_ids.tolist(), second.finish_reason, second.complete) == ([7, 8], "abort", False)
    assert second.sources["token_ids"] == "choices[1].token_ids"


def test_deltas_on_request() -> None:
    stream = decoder(deltas=False)
    assert stream.feed(WHOLE) is None
    assert (stream.tokens, stream.done) == (2, True)
    assert stream.finish().equals(fed(WHOLE).finish())


def test_provisional_tokens_of_dynamo() -> None:
    pair = pairs()["dynamo-1.6.1/chat_logprobs"]
    events = pair.stream.split(b"\n\n")
    stream = StreamDecoder(**pair.arguments)
    deltas = [stream.feed(part + b"\n\n") for part in events]
    whole = stream.finish()
    assert [len(delta.token_ids) for delta in deltas if delta] == [1, 1, 1, 1]
    stream = StreamDecoder(**pair.arguments)
    stream.feed(b"\n\n".join(events[:3]) + b"\n\n")
    prefix = stream.abandon()
    assert prefix.token_ids.tolist() == whole.token_ids[:3].tolist()
    assert prefix.sources["token_ids"] == "choices[0].logprobs.content[].token_id"
    stream = StreamDecoder(**pair.arguments)
    stream.feed(events[0].replace(b'"token_id":', b'"no":') + b"\n\n")
    with pytest.raises(tito.MissingFieldError):
        stream.abandon()


def test_ids_that_contradict_the_provisional_ones_are_refused() -> None:
    pair = pairs()["dynamo-1.6.1/chat_logprobs"]
    first = str(pair.entry["sampled"][0]["token_ids"][0]).encode()
    stream = StreamDecoder(**pair.arguments)
    with pytest.raises(tito.AlignmentError) as refused:
        stream.feed(pair.stream.replace(b'"token_id":' + first, b'"token_id":1'))
    assert refused.value.kind == "contradiction"
    assert refused.value.path == "events[3].nvext.engine_data.completion_token_ids[0]"


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_data_is_anything_bytes_like(kind: Callable[[bytes], Any]) -> None:
    stream = decoder()
    stream.feed(kind(WHOLE))
    assert stream.finish().token_ids.tolist() == [5, 6]


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="data must be bytes-like, not str"):
        decoder().feed("data: [DONE]\n\n")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wire must be one of"):
        StreamDecoder(wire="nope")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        StreamDecoder("vllm_generate")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="experts_out takes int32"):
        decoder(experts="native", experts_out=np.zeros(4, np.int32))


def test_a_closed_stream_is_a_value_error() -> None:
    for end in (StreamDecoder.finish, StreamDecoder.abandon):
        stream = fed(WHOLE)
        end(stream)
        for call in (partial(stream.feed, b""), stream.finish, stream.abandon, stream.finish_choices):
            with pytest.raises(ValueError, match="closed") as closed:
                call()
            assert type(closed.value) is ValueError


def test_it_is_not_copied_and_not_pickled() -> None:
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle a StreamDecoder"):
            duplicate(fed(event(5)))


def test_two_threads_at_once_get_an_answer_or_an_error() -> None:
    stream = decoder()
    large = event(5) * 20_000
    begin = threading.Barrier(4)
    fed_by = []

    def work() -> None:
        begin.wait()
        for _ in range(5):
            try:
                stream.feed(large)
            except RuntimeError as error:
                assert "another thread" in str(error)  # noqa: PT017 - one of two outcomes
            else:
                fed_by.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fed_by
    assert stream.tokens == 20_000 * len(fed_by)
    assert len(stream.abandon().token_ids) == 20_000 * len(fed_by)


def test_routed_experts_go_to_the_callers_array() -> None:
    pair = pairs()["vllm-0.32.0/generate_logprobs_1"]
    expected = fed(pair.stream, **pair.arguments).finish().routed_experts
    assert expected is not None
    out = np.full(4096, -7, np.int32)
    stream = StreamDecoder(experts_out=out, **pair.arguments)
    for at in range(len(pair.stream)):
        stream.feed(pair.stream[at : at + 1])
    found = stream.finish().routed_experts
    assert found is not None
    assert np.shares_memory(found.array, out)
    assert np.array_equal(found.array, expected.array)


def test_limits_hold_over_the_whole_stream() -> None:
    stream = decoder(limits=tito.Limits(max_tokens=3))
    stream.feed(event(5) * 3)
    with pytest.raises(tito.MalformedBodyError, match=r"4 tokens, more than 3 \(raised with") as refused:
        stream.feed(event(5))
    assert refused.value.path == "events[3].choices[0].token_ids"


def test_nothing_refers_to_what_was_fed() -> None:
    stream = decoder()
    data = bytearray(WHOLE)
    delta = stream.feed(data)
    assert delta is not None
    completion = stream.finish()
    data[:] = bytes(len(data))
    gc.collect()
    assert delta.token_ids.tolist() == completion.token_ids.tolist() == [5, 6]
    delta.token_ids[0] = 9
    assert completion.token_ids.tolist() == [5, 6]
