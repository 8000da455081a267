"""One client used by several threads and event loops: every call ends, with its own answer or a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import HttpRequest, HttpResponse, MockTransport, simulator
from dynamo_tito._client import own
from dynamo_tito._client.run_async import AsyncRunner
from dynamo_tito._client.streaming import StreamReading
from support.small import generated
from support.threads import at_once, disturbed

TURNS = 12
LONG = 60.0
"""Seconds that nothing takes, however slow the machine."""

Engine = simulator.Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with simulator.running(backend="vllm", max_model_len=1 << 16) as running:
        yield running


def prompt_of(number: int, turn: int) -> list[int]:
    return [*range(10, 20), 1000 + number, 2000 + turn]


def asked(tokens: int) -> dict[str, Any]:
    return {"sampling_params": {"max_tokens": tokens, "ignore_eos": True}, "deadline": LONG}


def own_answer(engine: Engine, prompt: list[int], completion: tito.Completion) -> bool:
    """Whether the engine sampled this for the prompt."""
    records = [record for record in engine.requests if json.loads(record.body)["token_ids"] == prompt]
    sampled = [sample.token_ids.tolist() for record in records for sample in record.samples]
    return completion.token_ids.tolist() in sampled


def test_every_kind_of_call_on_one_blocking_client(engine: Engine) -> None:
    with tito.TitoClient(engine.url, model=None, preflight=False, max_concurrency=6) as client:

        def generate(prompt: list[int]) -> None:
            assert own_answer(engine, prompt, client.generate(prompt, **asked(300)))

        def stream(prompt: list[int]) -> None:
            with client.stream(prompt, **asked(40)) as stream:
                tokens = [token for delta in stream for token in delta.token_ids.tolist()]
            assert tokens == stream.completion.token_ids.tolist()
            assert own_answer(engine, prompt, stream.completion)

        def leave(prompt: list[int]) -> None:
            with client.stream(prompt, **asked(4000)) as stream:
                next(stream)

        def score(prompt: list[int]) -> None:
            assert len(client.score(prompt, deadline=LONG).logprobs) == len(prompt)

        works = [generate, stream, leave, score]

        def work(number: int) -> None:
            for turn in range(TURNS):
                works[(number + turn) % len(works)](prompt_of(number, turn))

        with disturbed(tito.trim_memory, tito.memory_stats):
            at_once(work)


def test_several_event_loops_share_one_client(engine: Engine) -> None:
    client = tito.AsyncTitoClient(engine.url, model=None, preflight=False)

    async def ask(number: int, turn: int) -> None:
        prompt = prompt_of(number, turn)
        assert own_answer(engine, prompt, await client.generate(prompt, **asked(64)))
        async with client.stream(prompt, **asked(8)) as stream:
            async for _ in stream:
                pass
        assert own_answer(engine, prompt, stream.completion)

    async def all_of(number: int) -> None:
        await asyncio.gather(*(ask(number, turn) for turn in range(TURNS)))

    def work(number: int) -> None:
        for _ in range(2):  # the loop of the first round is closed when that of the second begins
            asyncio.run(all_of(number))

    at_once(work)
    asyncio.run(client.aclose())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "native"])
def test_a_client_that_is_closed_while_others_call(engine: Engine, *, blocking: bool, stream: bool) -> None:
    """No call hangs, and none gets another's answer."""
    for _ in range(4):
        calls = (_Blocking if blocking else _Async)(engine.url, stream=stream)
        begun = threading.Event()

        def call(number: int, calls: _Blocking | _Async = calls, begun: threading.Event = begun) -> None:
            # A deadline would say so.
            with pytest.raises((tito.TransportError, RuntimeError), match=r"the client (is|was) closed"):
                one_after_another(engine, number, calls, begun)

        def close(_: int, calls: _Blocking | _Async = calls, begun: threading.Event = begun) -> None:
            assert begun.wait(LONG)
            calls.close()

        at_once(call, call, call, close, close)
        with pytest.raises(RuntimeError, match="the client is closed"):
            calls.generate(prompt_of(0, 0))
        engine.forget()


def one_after_another(engine: Engine, number: int, calls: _Blocking | _Async, begun: threading.Event) -> None:
    for turn in count():
        prompt = prompt_of(number, turn)
        assert own_answer(engine, prompt, calls.generate(prompt))
        if turn == 1:
            begun.set()


class _Blocking:
    def __init__(self, url: str, *, stream: bool) -> None:
        self._client = tito.TitoClient(url, model=None, preflight=False)
        self._options = asked(64) | {"stream": stream}

    def generate(self, prompt: list[int]) -> tito.Completion:
        return self._client.generate(prompt, **self._options)

    def close(self) -> None:
        self._client.close()


class _Async:
    """Each call on an event loop of its own."""

    def __init__(self, url: str, *, stream: bool) -> None:
        self._client = tito.AsyncTitoClient(url, model=None, preflight=False)
        self._options = asked(64) | {"stream": stream}

    def generate(self, prompt: list[int]) -> tito.Completion:
        return asyncio.run(self._client.generate(prompt, **self._options))

    def close(self) -> None:
        asyncio.run(self._client.aclose())


@pytest.mark.parametrize("decoded_on", ["the loop", "a thread"])
def test_calls_that_another_thread_cancels(decoded_on: str) -> None:
    """What is kept of them begins the engine's sample, and has a time for each token."""
    with simulator.running(backend="vllm", token_latency=0.0005) as engine:
        _cancel(engine, thread_from_bytes=1 if decoded_on == "a thread" else 1 << 20)


def _cancel(engine: Engine, *, thread_from_bytes: int) -> None:
    kept: list[tito.Completion] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    client = tito.AsyncTitoClient(engine.url, model=None, preflight=False, thread_from_bytes=thread_from_bytes)

    async def ask(prompt: list[int], begun: threading.Event) -> None:
        stream = client.stream(prompt, on_interrupt="return", **asked(400))
        try:
            async with stream:
                async for _ in stream:
                    begun.set()
        finally:
            if stream.completion is not None:
                kept.append(stream.completion)

    def work(number: int) -> None:
        for turn in range(TURNS):
            begun = threading.Event()
            call = asyncio.run_coroutine_threadsafe(ask(prompt_of(number, turn), begun), loop)
            if turn % 4:
                assert begun.wait(LONG)
            time.sleep(0.001 * (number + turn))
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseException):
                call.result(LONG)

    at_once(work)
    asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(LONG)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    samples = [sample.token_ids.tolist() for record in engine.requests for sample in record.samples]
    assert kept
    for completion in kept:
        tokens = completion.token_ids.tolist()
        assert completion.timing is not None
        assert len(completion.timing.arrivals) == len(tokens)
        assert any(sample[: len(tokens)] == tokens for sample in samples)


def answering(content: bytes) -> Callable[[HttpRequest], HttpResponse]:
    return lambda _: HttpResponse(200, {}, content)


ANSWER = json.dumps(generated([7, 8, 9])).encode()


class Thoughtful(AsyncRunner):
    """Between a look at its event loop and what follows from it, others have time to look too."""

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        found: asyncio.AbstractEventLoop | None = vars(self).get("found")
        time.sleep(0.01)
        return found

    @_loop.setter
    def _loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        vars(self)["found"] = loop


def test_one_event_loop_has_a_client_that_serves_one() -> None:
    """Those that come at the same moment are told so."""
    runner = Thoughtful(MockTransport(answering(b"")), concurrency=1, thread_from_bytes=1)
    served: list[int] = []

    async def come(number: int) -> None:
        try:
            runner.check_loop()
        except RuntimeError as error:
            assert "another event loop" in str(error)  # noqa: PT017 - one of two outcomes
        else:
            served.append(number)

    at_once(lambda number: asyncio.run(come(number)))
    assert len(served) == 1


def test_requests_are_remembered_and_forgotten_on_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_REMEMBERED", 1000)
    requests, numbers = own.OwnRequests(), count()

    def note() -> str:
        engine_id = f"{next(numbers)}."
        call, spec = SimpleNamespace(request_id=None), SimpleNamespace(transport="sglang_generate")
        requests.note(SimpleNamespace(engine_id=engine_id, call=call, spec=spec))  # type: ignore[arg-type]
        return engine_id

    def work(_: int) -> None:
        for _ in range(100):
            assert requests.aborts(note())

    for _ in range(1000):
        note()
    at_once(work)


def test_the_record_is_read_while_it_grows(engine: Engine) -> None:
    with tito.TitoClient(engine.url, model=None, preflight=False) as client:
        client.generate([1], **asked(1))
        engine._records.extend(engine.calls * 2000)
        with disturbed(lambda: engine._records.append(engine.calls[0])):
            for _ in range(200):
                assert len(engine.requests) > 2000


def test_the_size_of_a_first_answer_may_be_still_to_come() -> None:
    """Another thread has made the list of a route's sizes, and added none yet."""
    transport = MockTransport(answering(ANSWER))
    with tito.TitoClient("http://test", model=None, preflight=False, http_client=transport) as client:
        client.generate([1])
        client._caller._sizes[transport.requests[0].url] = deque()
        assert client.generate([1]).token_ids.tolist() == [7, 8, 9]


def test_one_thread_instruments_the_process() -> None:
    pytest.importorskip("opentelemetry.sdk")
    for _ in range(30):
        handles: list[tito.Instrumentation] = []

        def work(_: int, handles: list[tito.Instrumentation] = handles) -> None:
            with contextlib.suppress(RuntimeError):
                handles.append(tito.instrument())

        at_once(work)
        assert len(handles) == 1
        handles[0].uninstrument()


def test_a_stream_that_is_given_up_while_a_thread_feeds_it() -> None:
    """What is kept has a time for each token, whenever it is asked for."""
    kept: list[tito.Completion] = []

    class Meddled(array):  # type: ignore[type-arg]  # subscriptable from 3.12 on
        """Between a count of tokens and its time, another thread asks."""

        def append(self, value: float) -> None:
            if len(self) == 2:
                other.start()
                other.join(0.2)
            super().append(value)

    reading = StreamReading(_Plain(), deltas=False)  # type: ignore[arg-type]
    reading._arrivals = Meddled("d")
    other = threading.Thread(target=lambda: kept.append(reading.abandon()))
    event = json.dumps({"request_id": "r", "choices": [{"index": 0, "token_ids": [5, 6], "finish_reason": None}]})
    for _ in range(3):
        reading.feed(f"data: {event}\n\n".encode())
    other.join()
    assert kept[0].timing is not None
    assert len(kept[0].timing.arrivals) == len(kept[0].token_ids) == 6


class _Plain:
    """How a stream is read whose completion is taken as it is."""

    def decoder(self, *, deltas: bool) -> tito.StreamDecoder:
        return tito.StreamDecoder(wire="vllm_generate", require_logprobs=False, deltas=deltas)

    def checked(self, completion: tito.Completion) -> tito.Completion:
        return completion
